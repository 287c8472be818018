/*
 * Frames out of a worker's hands into an interface, many to a system call: run by BPF_PROG_TEST_RUN with live frames, once for
 * each slot that was filled. Each worker's socket has a copy of this program and its maps for itself; see src/io/bulk.rs.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>

#include "bulk.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BULK_FRAMES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct bulk_slot);
} SLOTS SEC(".maps");

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
	__u32 at = state->next++;
	struct bulk_slot *slot = bpf_map_lookup_elem(&SLOTS, &at);
	if (!slot)
		return XDP_ABORTED;
	__u64 len = slot->len;
	if (len < ETH_HLEN) {
		state->refused++;
		return XDP_ABORTED;
	}
	/* Or the compiler makes one comparison of both, which the verifier cannot follow. */
	asm volatile("" : "+r"(len));
	if (len > sizeof(slot->data)) {
		state->refused++;
		return XDP_ABORTED;
	}
	/* The frame is as long as the longest of the call. */
	long growth = (long)len - ((long)ctx->data_end - (long)ctx->data);
	if ((growth && bpf_xdp_adjust_tail(ctx, growth)) || bpf_xdp_store_bytes(ctx, 0, slot->data, len)) {
		state->refused++;
		return XDP_ABORTED;
	}
	long action = bpf_redirect_map(&OUT, 0, XDP_ABORTED);
	if (action != XDP_REDIRECT)
		state->refused++;
	return action;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
