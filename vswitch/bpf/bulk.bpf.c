/*
 * Frames out of a worker's hands into an interface, many to a system call: run by BPF_PROG_TEST_RUN with live frames, once for
 * each frame that was filled in. Each worker's socket has a copy of this program and its maps for itself; see src/io/bulk.rs.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>

#include "bulk.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct bulk_bytes);
} BYTES SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct bulk_state);
} STATE SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} OUT SEC(".maps");

SEC("xdp")
int bulk(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct bulk_state *state = bpf_map_lookup_elem(&STATE, &zero);
	if (!state)
		return XDP_ABORTED;
	struct bulk_bytes *bytes = bpf_map_lookup_elem(&BYTES, &zero);
	if (!bytes)
		return XDP_ABORTED;
	__u32 number = state->next;
	if (number >= BULK_FRAMES)
		return XDP_ABORTED;
	state->next = number + 1;
	__u64 at = state->frames[number].at, len = state->frames[number].len;
	/* Or the compiler makes one comparison of several, which the verifier cannot follow. */
	asm volatile("" : "+r"(at), "+r"(len));
	if (at > BULK_BYTES - BULK_LEN_MAX)
		goto refused;
	if (len < ETH_HLEN)
		goto refused;
	asm volatile("" : "+r"(len));
	if (len > BULK_LEN_MAX)
		goto refused;
	/* The frame is as long as the longest of the call. */
	long growth = (long)len - ((long)ctx->data_end - (long)ctx->data);
	if ((growth && bpf_xdp_adjust_tail(ctx, growth)) || bpf_xdp_store_bytes(ctx, 0, bytes->data + at, len))
		goto refused;
	long action = bpf_redirect_map(&OUT, 0, XDP_ABORTED);
	if (action == XDP_REDIRECT)
		return action;
refused:
	state->refused++;
	return XDP_ABORTED;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
