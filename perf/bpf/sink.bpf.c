/*
 * The end of a load: on the ingress of the receiving pod's own interface, where every path to a pod ends, bpf_redirect_peer
 * included. Frames of a generator are held against what they say of themselves, counted and taken away before the stack sees them;
 * all others pass.
 */
#include "load.h"

#define GAPS 40
#define LATENCY_BITS 6 /* 64 buckets to a power of two: values within 1.6 % */
#define LATENCIES 2048

/* Mirrored in sink.rs. */
struct watch {
	__u32 flows; /* of the load; others are altered frames */
	__u32 words; /* of the fill to look at per frame, in turns */
	__u32 times; /* look at the clock: gaps and latencies */
	__u32 pad;
};

struct counts {
	__u64 frames;
	__u64 bytes;
	__u64 out_of_order;
	__u64 duplicates;
	__u64 wrong_len;
	__u64 altered;
	__u64 flows;
	__u64 first_ns;
	__u64 last_ns;
	__u64 gap_max_ns;
	__u64 latency_max_ns;
	__u64 word; /* whose turn it is */
};

/* What came of a flow: the number after the highest, and which of the 64 below it have come. */
struct flow {
	__u64 came;
	__u32 next;
	__u32 seen;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct watch);
} WATCH SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counts);
} COUNTS SEC(".maps");

/* max_entries is set when it is loaded. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow);
} FLOWS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, GAPS);
	__type(key, __u32);
	__type(value, __u64);
} GAP_BUCKETS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LATENCIES);
	__type(key, __u32);
	__type(value, __u64);
} LATENCY_BUCKETS SEC(".maps");

static __always_inline __u32 log2_of(__u64 value)
{
	__u32 bits = 0;
	if (value >> 32) { bits += 32; value >>= 32; }
	if (value >> 16) { bits += 16; value >>= 16; }
	if (value >> 8) { bits += 8; value >>= 8; }
	if (value >> 4) { bits += 4; value >>= 4; }
	if (value >> 2) { bits += 2; value >>= 2; }
	return bits + (value >> 1);
}

static __always_inline void add_to(void *map, __u32 bucket)
{
	__u64 *count = bpf_map_lookup_elem(map, &bucket);
	if (count)
		(*count)++;
}

/* Below 64 each value has its own; above, 64 buckets to each power of two. */
static __always_inline __u32 latency_bucket(__u64 ns)
{
	__u32 power = log2_of(ns);
	if (power < LATENCY_BITS)
		return ns;
	__u32 bucket = ((power - LATENCY_BITS) << LATENCY_BITS) + (__u32)(ns >> (power - LATENCY_BITS));
	return bucket < LATENCIES ? bucket : LATENCIES - 1;
}

static __always_inline void count_times(struct counts *counts, __u64 sent_at)
{
	__u64 now = bpf_ktime_get_ns();
	if (counts->last_ns) {
		__u64 gap = now - counts->last_ns;
		__u32 bucket = log2_of(gap);
		add_to(&GAP_BUCKETS, bucket < GAPS ? bucket : GAPS - 1);
		if (gap > counts->gap_max_ns)
			counts->gap_max_ns = gap;
	} else {
		counts->first_ns = now;
	}
	counts->last_ns = now;
	__u64 latency = ((now & TIME_MASK) - sent_at) & TIME_MASK;
	add_to(&LATENCY_BUCKETS, latency_bucket(latency));
	if (latency > counts->latency_max_ns)
		counts->latency_max_ns = latency;
}

static __always_inline void count_sequence(struct counts *counts, struct flow *flow, __u32 sequence)
{
	if (!flow->seen && !__sync_fetch_and_or(&flow->seen, 1))
		counts->flows++;
	__u32 next = flow->next;
	if (sequence >= next) {
		__u32 by = sequence - next + 1;
		flow->came = by < 64 ? flow->came << by | 1 : 1;
		flow->next = sequence + 1;
		return;
	}
	__u32 back = next - 1 - sequence;
	__u64 bit = back < 64 ? 1ull << back : 0;
	if (flow->came & bit) {
		counts->duplicates++;
	} else {
		/* Overtaken; whether one so late that it is below the window came twice, nobody knows. */
		flow->came |= bit;
		counts->out_of_order++;
	}
}

struct fill {
	struct __sk_buff *skb;
	__u32 first;
	__u32 total;
	__u64 is_wrong;
};

/* One word of the fill. Returns 1 to end the loop. Nothing it keeps changes from word to word, or the verifier would never end. */
static long look_at_word(__u32 nth, struct fill *fill)
{
	__u32 at = fill->first + nth;
	if (at >= fill->total)
		at -= fill->total;
	__u32 len = fill->skb->len, offset = FILL_AT + at * 8;
	__u64 word = 0, mask = ~0ull;
	if (offset + 8 <= len) {
		if (bpf_skb_load_bytes(fill->skb, offset, &word, 8))
			goto wrong;
	} else {
		/* The rest of a frame: byte by byte, for its length is no constant. */
		mask = 0;
		for (int n = 0; n < 7; n++) {
			__u8 byte;
			if (offset + n >= len)
				break;
			if (bpf_skb_load_bytes(fill->skb, offset + n, &byte, 1))
				goto wrong;
			word |= (__u64)byte << (8 * n);
			mask |= 0xffull << (8 * n);
		}
	}
	if (word == (fill_word(at) & mask))
		return 0;
wrong:
	fill->is_wrong = 1;
	return 1;
}

static __always_inline int is_filled(struct __sk_buff *skb, __u32 wanted, struct counts *counts)
{
	__u32 len = skb->len;
	if (len <= FILL_AT || !wanted)
		return 1;
	struct fill fill = { .skb = skb, .total = (len - FILL_AT + 7) / 8 };
	fill.first = counts->word < fill.total ? counts->word : 0;
	__u32 words = wanted < fill.total ? wanted : fill.total;
	bpf_loop(words, look_at_word, &fill, 0);
	counts->word = fill.first + words;
	return !fill.is_wrong;
}

SEC("classifier")
int arrived(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	if (data + FRAME_LEN_MIN > end) {
		if (bpf_skb_pull_data(skb, FRAME_LEN_MIN))
			return TC_ACT_UNSPEC;
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
		if (data + FRAME_LEN_MIN > end)
			return TC_ACT_UNSPEC;
	}
	if (*(__u16 *)(data + TYPE_AT) != bpf_htons(ETH_P_IP) || *(__u8 *)(data + IP_AT) != 0x45 ||
	    *(__u8 *)(data + PROTOCOL_AT) != 17 || *(__u16 *)(data + MAGIC_AT) != MAGIC)
		return TC_ACT_UNSPEC;
	__u32 zero = 0;
	struct counts *counts = bpf_map_lookup_elem(&COUNTS, &zero);
	const struct watch *watch = bpf_map_lookup_elem(&WATCH, &zero);
	if (!counts || !watch)
		return TC_ACT_SHOT;
	counts->frames++;
	counts->bytes += skb->len;

	__u32 flow = *(__u32 *)(data + FLOW_AT), sequence = *(__u32 *)(data + SEQUENCE_AT);
	__u64 time = *(__u32 *)(data + TIME_AT) | (__u64)*(__u16 *)(data + TIME_AT + 4) << 32;
	__u16 check = *(__u16 *)(data + CHECK_AT);
	__u16 source = bpf_ntohs(*(__u16 *)(data + SOURCE_PORT_AT));
	__u16 destination = bpf_ntohs(*(__u16 *)(data + DESTINATION_PORT_AT));
	__u32 said_len = bpf_ntohs(*(__u16 *)(data + IP_LEN_AT)) + ETH_HLEN;
	if (check != check_of(flow, sequence, time, skb->len)) {
		if (check == check_of(flow, sequence, time, said_len))
			counts->wrong_len++;
		else
			counts->altered++;
		return TC_ACT_SHOT;
	}
	struct flow *state = flow < watch->flows ? bpf_map_lookup_elem(&FLOWS, &flow) : 0;
	if (!state || source != SOURCE_PORT_FIRST + flow % SOURCE_PORTS ||
	    destination != DESTINATION_PORT_FIRST + flow / SOURCE_PORTS) {
		counts->altered++;
		return TC_ACT_SHOT;
	}
	if (!is_filled(skb, watch->words, counts)) {
		counts->altered++;
		return TC_ACT_SHOT;
	}
	count_sequence(counts, state, sequence);
	if (watch->times)
		count_times(counts, time);
	return TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
