/*
 * Both ends of a load: frames that a pod sends, made inside the kernel, and the count of those that arrive in another.
 *
 * `generate` is run by BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES: what it redirects to an interface is transmitted
 * by it. `arrived` sits on the ingress of the receiving pod's own interface, where every path to a pod ends.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define FRAME_LEN 60 /* 64 with the checksum a wire would add */
#define SOURCE_PORT_AT 34
#define TTL_AT 22
#define MAGIC_AT 42
#define SEQUENCE_AT 46
#define MAGIC 0x50454e53 /* "PENS" */
#define FIRST_SOURCE_PORT 1024

/* Mirrored in load.rs. */
struct plan {
	__u64 ifindex;
	__u64 flows;
	__u64 next; /* sequence number; flow = next % flows */
	__u64 flow;
	__u8 frame[64];
};

struct arrivals {
	__u64 frames;
	__u64 last;
	__u64 out_of_order; /* overtaken, or twice */
	__u64 wrong_len;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct plan);
} PLAN SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct arrivals);
} ARRIVALS SEC(".maps");

/* One CPU runs this. Pages are used again as they come back, so everything is written each time. */
SEC("xdp")
int generate(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u32 zero = 0;
	struct plan *plan = bpf_map_lookup_elem(&PLAN, &zero);
	if (!plan || data + FRAME_LEN > end)
		return XDP_ABORTED;
	__builtin_memcpy(data, plan->frame, FRAME_LEN);
	__u64 sequence = plan->next++;
	__u64 flow = plan->flow + 1 < plan->flows ? plan->flow + 1 : 0;
	plan->flow = flow;
	*(__u16 *)(data + SOURCE_PORT_AT) = bpf_htons(FIRST_SOURCE_PORT + flow);
	*(__u32 *)(data + MAGIC_AT) = bpf_htonl(MAGIC);
	*(__u32 *)(data + SEQUENCE_AT) = sequence;
	*(__u32 *)(data + SEQUENCE_AT + 4) = sequence >> 32;
	return bpf_redirect(plan->ifindex, 0);
}

/* Counts frames of the generator and takes them away before the stack sees them; all others pass. */
SEC("classifier")
int arrived(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	if (data + FRAME_LEN > end) {
		if (bpf_skb_pull_data(skb, FRAME_LEN))
			return TC_ACT_UNSPEC;
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
		if (data + FRAME_LEN > end)
			return TC_ACT_UNSPEC;
	}
	if (*(__u32 *)(data + MAGIC_AT) != bpf_htonl(MAGIC))
		return TC_ACT_UNSPEC;
	__u32 zero = 0;
	struct arrivals *arrivals = bpf_map_lookup_elem(&ARRIVALS, &zero);
	if (!arrivals)
		return TC_ACT_SHOT;
	__u64 sequence = *(__u32 *)(data + SEQUENCE_AT) | (__u64)*(__u32 *)(data + SEQUENCE_AT + 4) << 32;
	if (sequence <= arrivals->last)
		arrivals->out_of_order++;
	else
		arrivals->last = sequence;
	if (skb->len != FRAME_LEN)
		arrivals->wrong_len++;
	arrivals->frames++;
	return TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
