/*
 * Frames made inside the kernel: BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES runs this once per frame of its template, and
 * what it redirects to an interface is transmitted by it.
 *
 * The template has the longest frame and its fill; headers and mark are written each time, for the kernel hands out the same pages
 * again as they come back. One system call lasts as long as the load: between two calls the kernel waits for a grace period, some
 * 25 ms in which nothing is offered. So the rate is kept here: a run for which no frame is due yet drops its frame.
 */
#include "load.h"

#define SIZES_MAX 12

/* Mirrored in live.rs. */
struct size {
	__u16 len;
	__u16 ip_len;   /* these as on the wire */
	__u16 ip_check;
	__u16 udp_len;
};

struct plan {
	__u64 frames_max;
	__u64 interval; /* ns << 16 between two frames; 0: as fast as it goes */
	__u64 burst;    /* ns << 16 that may be made up for after a delay */
	__u32 ifindex;
	__u32 flows;
	__u32 sizes;
	__u32 len_max;
	struct size size[SIZES_MAX];
	__u8 headers[48];
};

struct sent {
	__u64 frames;
	__u64 bytes;
	__u64 first_ns;
	__u64 last_ns;
	__u64 gap_max_ns;
	__u64 gaps_long;  /* above 1 ms */
	__u64 slipped_ns; /* delay that was not made up for */
	__u64 due;        /* ns << 16 since first_ns */
	__u32 flow;
	__u32 column;     /* flow = row * SOURCE_PORTS + column */
	__u32 row;
	__u32 sequence;
	__u32 size;
	__u32 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct plan);
} PLAN SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sent);
} SENT SEC(".maps");

/* As Pacer::is_due in pace.rs. */
static __always_inline int is_due(const struct plan *plan, struct sent *sent, __u64 now)
{
	if (!plan->interval)
		return 1;
	__u64 at = (now - sent->first_ns) << 16;
	if (at < sent->due)
		return 0;
	if (at - sent->due > plan->burst) {
		sent->slipped_ns += (at - sent->due - plan->burst) >> 16;
		sent->due = at - plan->burst;
	}
	sent->due += plan->interval;
	return 1;
}

static __always_inline void next_flow(const struct plan *plan, struct sent *sent)
{
	sent->flow++;
	sent->column++;
	if (sent->flow >= plan->flows) {
		sent->flow = sent->column = sent->row = 0;
		sent->sequence++;
	} else if (sent->column >= SOURCE_PORTS) {
		sent->column = 0;
		sent->row++;
	}
}

/* One CPU runs this. */
SEC("xdp")
int generate(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct plan *plan = bpf_map_lookup_elem(&PLAN, &zero);
	struct sent *sent = bpf_map_lookup_elem(&SENT, &zero);
	if (!plan || !sent)
		return XDP_ABORTED;
	if (sent->frames >= plan->frames_max)
		return XDP_DROP;
	__u64 now = bpf_ktime_get_ns();
	if (!sent->frames)
		sent->first_ns = sent->last_ns = now;
	if (!is_due(plan, sent, now))
		return XDP_DROP;

	__u32 index = sent->size;
	if (index >= SIZES_MAX)
		return XDP_ABORTED;
	const struct size *size = &plan->size[index];
	if (size->len != plan->len_max && bpf_xdp_adjust_tail(ctx, (int)size->len - (int)plan->len_max))
		return XDP_ABORTED;
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	if (data + FRAME_LEN_MIN > end)
		return XDP_ABORTED;
	__builtin_memcpy(data, plan->headers, MAGIC_AT);
	*(__u16 *)(data + IP_LEN_AT) = size->ip_len;
	*(__u16 *)(data + IP_CHECK_AT) = size->ip_check;
	*(__u16 *)(data + UDP_LEN_AT) = size->udp_len;
	*(__u16 *)(data + SOURCE_PORT_AT) = bpf_htons(SOURCE_PORT_FIRST + sent->column);
	*(__u16 *)(data + DESTINATION_PORT_AT) = bpf_htons(DESTINATION_PORT_FIRST + sent->row);
	__u64 time = now & TIME_MASK;
	*(__u16 *)(data + MAGIC_AT) = MAGIC;
	*(__u16 *)(data + CHECK_AT) = check_of(sent->flow, sent->sequence, time, size->len);
	*(__u32 *)(data + FLOW_AT) = sent->flow;
	*(__u32 *)(data + SEQUENCE_AT) = sent->sequence;
	*(__u32 *)(data + TIME_AT) = time;
	*(__u16 *)(data + TIME_AT + 4) = time >> 32;

	__u64 gap = now - sent->last_ns;
	if (gap > sent->gap_max_ns)
		sent->gap_max_ns = gap;
	if (gap > 1000000)
		sent->gaps_long++;
	sent->last_ns = now;
	sent->bytes += size->len;
	sent->frames++;
	sent->size = index + 1 < plan->sizes ? index + 1 : 0;
	next_flow(plan, sent);
	return bpf_redirect(plan->ifindex, 0);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
