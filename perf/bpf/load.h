/*
 * The frame both ends of a load agree on, little-endian behind the UDP header of an IPv4 packet without options:
 *
 *   at 42  magic u16 | check u16 | flow u32 | sequence within the flow u32 | sent at, ns of CLOCK_MONOTONIC, u48
 *   at 60  words of the fill, a function of the place alone, to the end of the frame
 *
 * The flow is also in the ports, so that a path sees it and the sink can hold one against the other. Mirrored in
 * src/load/frame.rs and src/load/flows.rs, which explain it.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define TYPE_AT 12
#define IP_AT 14
#define IP_LEN_AT 16
#define IP_CHECK_AT 24
#define PROTOCOL_AT 23
#define SOURCE_PORT_AT 34
#define DESTINATION_PORT_AT 36
#define UDP_LEN_AT 38
#define MAGIC_AT 42
#define CHECK_AT 44
#define FLOW_AT 46
#define SEQUENCE_AT 50
#define TIME_AT 54
#define FILL_AT 60
#define FRAME_LEN_MIN 60

#define MAGIC 0x5053 /* "SP" */
#define TIME_MASK ((1ull << 48) - 1)
#define SOURCE_PORTS 62500
#define SOURCE_PORT_FIRST 1024
#define DESTINATION_PORT_FIRST 5001

static __always_inline __u16 check_of(__u32 flow, __u32 sequence, __u64 time, __u32 len)
{
	__u64 x = ((__u64)flow << 32 | sequence) * 0x9e3779b97f4a7c15ull;
	x ^= (time << 16 | (len & 0xffff)) * 0xff51afd7ed558ccdull;
	x ^= x >> 32;
	return x ^ x >> 16;
}

static __always_inline __u64 fill_word(__u32 index)
{
	return (index + 1) * 0x9e3779b97f4a7c15ull;
}
