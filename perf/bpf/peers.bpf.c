/*
 * The least a kernel path and an AF_XDP path can do, to compare with: `across` hands a pod's frame to the other pod, `to_socket`
 * hands it to the socket of a loop.
 */
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

/* By the interface a frame came in on, the one whose peer gets it. A fresh namespace counts its interfaces from 1. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} ACROSS SEC(".maps");

/* By the interface too: each has one queue and one socket. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} SOCKETS SEC(".maps");

SEC("classifier")
int across(struct __sk_buff *skb)
{
	__u32 in = skb->ifindex;
	__u32 *out = bpf_map_lookup_elem(&ACROSS, &in);
	return out && *out ? bpf_redirect_peer(*out, 0) : TC_ACT_SHOT;
}

SEC("xdp")
int to_socket(struct xdp_md *ctx)
{
	return bpf_redirect_map(&SOCKETS, ctx->ingress_ifindex, XDP_DROP);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
