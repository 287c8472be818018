/*
 * The kernel's part of the switch.
 *
 *   pod host end --tc ingress: pod--> trunk near end ==veth==> far end --XDP: queue--> AF_XDP socket
 *   AF_XDP socket --> far end ==veth==> near end --tc ingress: trunk--> into the pod (redirect_peer)
 *   a flow that the switch handed over: pod host end --tc ingress: pod--> into the other pod (redirect_peer)
 *     or, marked, to penstock0's outer end (redirect_peer) --tc ingress: outer--> NIC of a direct port
 *   and from there: NIC --XDP: direct--> its AF_XDP socket; or, of such a flow, --stack, tc ingress: nic--> marked, to penstock0's
 *     inner end (redirect_peer) --tc ingress: host--> into the pod (redirect_peer)
 *
 * Every interface here but penstock0's outer end and the NICs lives in a namespace that routes nothing: a frame that no program
 * takes goes nowhere, and so does every frame when a program is removed.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stdbool.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "maps.h"

static __always_inline void count_port(__u32 port, enum port_counter what, __u64 frames)
{
	__u32 index = port * PORT_COUNTERS + what;
	__u64 *cell = bpf_map_lookup_elem(&PORT_COUNTS, &index);
	if (cell)
		*cell += frames;
}

static __always_inline void count_queue(__u32 slot, enum queue_counter what, __u64 frames)
{
	__u32 index = slot * QUEUE_COUNTERS + what;
	__u64 *cell = bpf_map_lookup_elem(&QUEUE_COUNTS, &index);
	if (cell)
		*cell += frames;
}

static __always_inline int drop(__u32 port, enum port_counter why, __u32 frames)
{
	count_port(port, why, frames);
	return TC_ACT_SHOT;
}

/* Nobody told the programs of the interface, or of any worker. */
static __always_inline int drop_unknown(__u32 frames)
{
	count_queue(SLOT_OF_NONE, QUEUE_BAD_TAG, frames);
	return TC_ACT_SHOT;
}

static __always_inline bool same_mac(const __u8 *a, const __u8 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3] && a[4] == b[4] && a[5] == b[5];
}

static __always_inline bool is_own_v4(const struct port *port, __u32 address)
{
#pragma unroll
	for (int i = 0; i < PORT_ADDRESSES_MAX; i++)
		if (i < port->v4_len && port->v4[i] == address)
			return true;
	return false;
}

static __always_inline bool is_own_v6(const struct port *port, const __u32 *address)
{
#pragma unroll
	for (int i = 0; i < PORT_ADDRESSES_MAX; i++)
		if (i < port->v6_len && port->v6[i][0] == address[0] && port->v6[i][1] == address[1] &&
		    port->v6[i][2] == address[2] && port->v6[i][3] == address[3])
			return true;
	return false;
}

/* Mirrors FlowKey::owner. A hint: a frame that lands on the wrong worker is handed over by it. */
static __always_inline __u32 steer(__u32 folded, __u8 protocol, __u32 ports, __u32 workers)
{
	__u32 both = (ports >> 16) ^ (ports & 0xffff);
	__u32 mixed = (folded ^ (both << 8) ^ protocol) * 0x9E3779B1u;
	return ((__u64)mixed * workers) >> 32;
}

static __always_inline bool has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

/* The ports of TCP, UDP and SCTP, host order, or 0: where they are in the linear part, nearly always. */
static __always_inline __u32 l4_ports(const void *l4, const void *end, __u8 protocol)
{
	if (!has_ports(protocol) || l4 + 4 > end)
		return 0;
	return bpf_ntohl(*(const __u32 *)l4);
}

/* The same, behind IPv4 options. */
static __always_inline __u32 l4_ports_at(struct __sk_buff *skb, __u32 offset, __u8 protocol)
{
	__u32 ports;
	if (!has_ports(protocol) || bpf_skb_load_bytes(skb, offset, &ports, sizeof(ports)))
		return 0;
	return bpf_ntohl(ports);
}

/* What is learned of a packet for the shortcut. */
struct plain {
	struct flow_key key;
	__u32 headers; /* bytes before the payload, Ethernet's included */
	__u32 end; /* of TCP: the sequence number after its payload */
	__u32 acknowledged;
	bool is_bare; /* of TCP, and without payload */
	bool has_key; /* it is of TCP or UDP, and its ports are known */
	bool is_plain; /* and it is whole, and there is nothing unusual about it */
};

static __always_inline void look_at_l4(struct plain *plain, const void *l4, const void *end, __u32 length)
{
	if (plain->key.protocol == IPPROTO_TCP) {
		const struct tcphdr *tcp = l4;
		if ((const void *)(tcp + 1) > end)
			return;
		plain->headers += tcp->doff * 4;
		plain->end = bpf_ntohl(tcp->seq) + length - tcp->doff * 4;
		plain->acknowledged = bpf_ntohl(tcp->ack_seq);
		plain->is_bare = length == tcp->doff * 4;
		/* Whatever opens or ends a connection, and what is out of band, is the worker's. */
		plain->is_plain &= tcp->ack && !(tcp->syn | tcp->fin | tcp->rst | tcp->urg) && tcp->doff >= 5 &&
				   tcp->doff * 4 <= length;
	} else if (plain->key.protocol == IPPROTO_UDP) {
		const struct udphdr *udp = l4;
		if ((const void *)(udp + 1) > end)
			return;
		plain->headers += sizeof(*udp);
		plain->is_plain &= bpf_ntohs(udp->len) == length;
	} else {
		return;
	}
	plain->key.ports = *(const __u32 *)l4;
	plain->has_key = true;
}

static __always_inline void look_at_v4(struct plain *plain, const struct iphdr *ip, const void *end, __u32 ip_len)
{
	/* Options and later fragments show no ports, or not here. */
	if (*(const __u8 *)ip != 0x45 || (ip->frag_off & bpf_htons(0x1fff)))
		return;
	const __u16 *half = (const void *)ip;
	__u32 sum = 0;
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += half[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	plain->is_plain = !(ip->frag_off & bpf_htons(0xa000)) && ip->ttl > 1 && sum == 0xffff &&
			  bpf_ntohs(ip->tot_len) == ip_len;
	plain->key.source[2] = bpf_htonl(0xffff);
	plain->key.source[3] = ip->saddr;
	plain->key.destination[2] = bpf_htonl(0xffff);
	plain->key.destination[3] = ip->daddr;
	plain->key.protocol = ip->protocol;
	plain->key.family = 4;
	plain->headers = ETH_HLEN + sizeof(*ip);
	look_at_l4(plain, ip + 1, end, ip_len - sizeof(*ip));
}

static __always_inline void look_at_v6(struct plain *plain, const struct ipv6hdr *ip, const void *end, __u32 ip_len)
{
	plain->is_plain = ip->version == 6 && ip->hop_limit > 1 &&
			  bpf_ntohs(ip->payload_len) + sizeof(*ip) == ip_len;
	__builtin_memcpy(plain->key.source, &ip->saddr, 16);
	__builtin_memcpy(plain->key.destination, &ip->daddr, 16);
	plain->key.protocol = ip->nexthdr;
	plain->key.family = 6;
	plain->headers = ETH_HLEN + sizeof(*ip);
	const void *l4 = ip + 1;
	if (ip->nexthdr == IPPROTO_FRAGMENT) {
		/* next header, reserved, offset and flags, identification */
		const __u8 *fragment = l4;
		if ((const void *)(fragment + 8) > end || fragment[2] || fragment[3] & 0xf8)
			return;
		plain->is_plain = false;
		plain->key.protocol = fragment[0];
		l4 = fragment + 8;
	}
	look_at_l4(plain, l4, end, ip_len - sizeof(*ip));
}

static __always_inline bool same_key(const struct flow_key *a, const struct flow_key *b)
{
	const __u64 *x = (const void *)a, *y = (const void *)b;
	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | (x[4] ^ y[4]));
}

/*
 * Of a key: sums of products of its halves of words, each with a random number added, whose upper bits no sender can make
 * collide (Thorup, "High speed hashing for integers and strings", 3.2). Mirrored by shortcut.rs.
 */
static __always_inline __u64 hash_key(const struct flow_key *key, const __u64 *seeds)
{
	const __u64 *words = (const void *)key;
	__u64 hash = 0;
#pragma unroll
	for (int i = 0; i < SEEDS / 2; i++)
		hash += ((__u32)words[i] + seeds[2 * i]) * ((words[i] >> 32) + seeds[2 * i + 1]);
	return hash;
}

static __always_inline struct flow *find_flow(const struct flow_key *key, __u32 *slot)
{
	__u32 zero = 0;
	const struct settings *settings = bpf_map_lookup_elem(&SETTINGS, &zero);
	if (!settings)
		return NULL;
	__u64 hash = hash_key(key, settings->seeds);
	__u32 place = hash >> (64 - BUCKET_BITS);
	const struct bucket *bucket = bpf_map_lookup_elem(&SHORTCUTS, &place);
	if (!bucket)
		return NULL;
	__u32 tag = hash >> (64 - BUCKET_BITS - TAG_BITS) & ((1 << TAG_BITS) - 1), entry = 0;
	tag |= !tag;
#pragma unroll
	for (int i = 0; i < BUCKET_ENTRIES; i++) {
		__u32 one = *(volatile const __u32 *)&bucket->entry[i];
		if (one >> SLOT_BITS == tag)
			entry = one;
	}
	if (!entry)
		return NULL;
	*slot = entry & (SHORTCUTS_MAX - 1);
	struct flow *flow = bpf_map_lookup_elem(&FLOWS, slot);
	/* Another key with this tag, or a row that has become another's since. */
	return flow && same_key(&flow->key, key) ? flow : NULL;
}

/* Has everything of the flow that went up come back? Then what follows cannot overtake it. */
static __always_inline bool is_drained(const struct flow *flow)
{
	return flow->mark_frames && flow->echo == flow->mark && flow->echo_frames >= flow->mark_frames &&
	       bpf_ktime_get_ns() - flow->echo_ns > SETTLE_NS;
}

/* These segments of the flow go up: with which mark, and how far the payload of all that did reaches. */
static __always_inline __u32 next_mark(struct flow *flow, const struct plain *plain, __u32 frames)
{
	__u32 mark = flow->mark % MARK_MAX + 1;
	flow->mark_frames = frames;
	flow->mark = mark;
	if (plain->key.protocol == IPPROTO_TCP && !plain->is_bare &&
	    (!flow->end || (__s32)(plain->end - flow->end) > 0))
		flow->end = plain->end;
	return mark;
}

/* Where it comes from, for the worker; mark 0: none. */
static __always_inline void write_tag(struct ethhdr *eth, __u32 port_id, __u32 mark)
{
	eth->h_dest[0] = TAG_0;
	eth->h_dest[1] = TAG_1;
	eth->h_dest[2] = TAG_FROM_PORT;
	eth->h_dest[3] = port_id >> 8 | mark >> 8 << 2;
	eth->h_dest[4] = port_id;
	eth->h_dest[5] = mark;
}

/*
 * A stream without a pause never drains: acknowledgements of its first bytes call for more while others are still on their way up.
 * So those are dropped for a moment, until one comes that answers all of it: whoever waits for it sends nothing meanwhile, and
 * nobody loses anything, since the later one says all that the earlier ones did. That one also shows that the receiver has taken up
 * everything, sooner than time would.
 */
static __always_inline bool is_kept_back(const struct plain *plain)
{
	struct flow_key back = plain->key;
	__builtin_memcpy(back.source, plain->key.destination, sizeof(back.source));
	__builtin_memcpy(back.destination, plain->key.source, sizeof(back.destination));
	back.ports = plain->key.ports >> 16 | plain->key.ports << 16;
	__u32 slot = 0;
	struct flow *data = find_flow(&back, &slot);
	if (!data || data->direct || !data->mark_frames || !data->end)
		return false;
	if ((__s32)(plain->acknowledged - data->end) >= 0) {
		if (data->echo == data->mark && data->echo_frames >= data->mark_frames)
			data->echo_ns = 0;
		return false;
	}
	__u64 now = bpf_ktime_get_ns();
	if (now - data->kept_back_ns > KEEP_BACK_EVERY_NS)
		data->kept_back_ns = now;
	return now - data->kept_back_ns < KEEP_BACK_NS;
}

/* Where a frame of the flow may go without the worker, while both ends are those it was judged between, under their policy. */
static __always_inline struct port *target_of(const struct flow *flow, __u32 port_id, const struct port *port)
{
	__u64 epoch = *(volatile const __u64 *)&flow->source_epoch;
	if (!epoch || epoch != *(volatile const __u64 *)&port->epoch || flow->source_port != port_id)
		return NULL;
	__u32 key = flow->target_port;
	struct port *target = bpf_map_lookup_elem(&PORTS, &key);
	if (!target || !target->ifindex || *(volatile __u64 *)&target->epoch != flow->target_epoch)
		return NULL;
	return target;
}

/* How long the packet is without what an Ethernet frame is filled up with, which a NIC does not take away. */
static __always_inline __u32 without_padding(const struct iphdr *ip, __u32 ip_len)
{
	__u32 own = bpf_ntohs(ip->tot_len);
	return ip_len == ETH_ZLEN - ETH_HLEN && own < ip_len ? own : ip_len;
}

/* The frame goes where the flow leads, as the worker would have sent it; or not at all, untouched: -1. */
static __always_inline int carry(struct __sk_buff *skb, __u32 slot, const struct port *target, __u32 target_id,
				 const struct plain *plain, __u32 frames, bool is_from_direct)
{
	__u32 row = bpf_get_smp_processor_id() * SHORTCUTS_MAX + slot;
	struct carried *carried = bpf_map_lookup_elem(&CARRIED, &row);
	struct ethhdr *eth = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	if (!carried)
		return -1;
	if (plain->key.family == 4) {
		struct iphdr *ip = (void *)(eth + 1);
		if ((void *)(ip + 1) > end)
			return -1;
		/* RFC 1624; the sum was found right. */
		__u32 sum = ip->check + bpf_htons(0x0100);
		ip->check = sum + (sum >= 0xffff);
		ip->ttl--;
	} else {
		struct ipv6hdr *ip = (void *)(eth + 1);
		if ((void *)(ip + 1) > end)
			return -1;
		ip->hop_limit--;
		/* A NIC may have summed up all behind Ethernet's header; IPv4's sums up to the same. */
		if (is_from_direct)
			bpf_csum_update(skb, ~(__u32)bpf_htons(1));
		eth = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
		if ((void *)(eth + 1) > end)
			return -1;
	}
	const __u8 gateway[ETH_ALEN] = GATEWAY_MAC;
	__builtin_memcpy(eth->h_dest, target->mac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, gateway, ETH_ALEN);
	carried->frames += frames;
	/* As many bytes as these segments have on a trunk. */
	carried->bytes += skb->len + (__u64)(frames - 1) * plain->headers;
	if (target->flags & PORT_DIRECT)
		skb->mark = MARK_TO_DIRECT | target_id;
	return bpf_redirect_peer(target->ifindex, 0);
}

static __always_inline struct port *find_port(__u32 ifindex, __u32 *id)
{
	__u32 place = ifindex % PORT_GUESSES;
	__u32 *found = bpf_map_lookup_elem(&PORT_BY_GUESS, &place);
	if (found) {
		*id = *found;
		struct port *port = bpf_map_lookup_elem(&PORTS, id);
		if (port && port->ifindex == ifindex)
			return port;
	}
	found = bpf_map_lookup_elem(&PORT_BY_IFINDEX, &ifindex);
	if (!found)
		return NULL;
	*id = *found;
	struct port *port = bpf_map_lookup_elem(&PORTS, id);
	return port && port->ifindex == ifindex ? port : NULL;
}

static __always_inline int from_port(struct __sk_buff *skb, struct port *port, __u32 port_id, bool is_host)
{
	struct plain plain = {};
	struct flow *flow = NULL;
	bool is_direct = port->flags & PORT_DIRECT;
	__u32 frames = skb->gso_segs ? skb->gso_segs : 1;

	if (skb->vlan_present)
		return drop(port_id, PORT_VLAN, frames);
	/* A pod that raised its own MTU: the trunk and the receiver cannot carry what it sends. */
	if (skb->gso_size ? skb->gso_size + 28 > port->mtu : skb->len > port->mtu + ETH_HLEN)
		return drop(port_id, PORT_TOO_BIG, frames);
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	/* Headers are in the linear part, nearly always: the helper's call costs more than all that is read here. */
	if (data + 64 > end && end - data < skb->len) {
		if (bpf_skb_pull_data(skb, skb->len < 64 ? skb->len : 64))
			return drop(port_id, PORT_TRUNCATED, frames);
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
	}
	struct ethhdr *eth = data;
	if ((void *)(eth + 1) > end)
		return drop(port_id, PORT_TRUNCATED, frames);
	if (!is_host && !same_mac(eth->h_source, port->mac))
		return drop(port_id, PORT_SPOOFED, frames);

	__u32 folded = 0, ports = 0;
	__u8 protocol = 0;
	switch (eth->h_proto) {
	case bpf_htons(ETH_P_IP): {
		struct iphdr *ip = (void *)(eth + 1);
		if ((void *)(ip + 1) > end)
			return drop(port_id, PORT_TRUNCATED, frames);
		if (!is_host && !is_own_v4(port, ip->saddr))
			return drop(port_id, PORT_SPOOFED, frames);
		protocol = ip->protocol;
		folded = bpf_ntohl(ip->saddr ^ ip->daddr);
		if (!(ip->frag_off & bpf_htons(0x3fff)))
			ports = ip->ihl == 5 ? l4_ports(ip + 1, end, protocol) :
					       l4_ports_at(skb, ETH_HLEN + ip->ihl * 4, protocol);
		if (!is_host) {
			__u32 ip_len = skb->len - ETH_HLEN;
			look_at_v4(&plain, ip, end, is_direct ? without_padding(ip, ip_len) : ip_len);
		}
		break;
	}
	case bpf_htons(ETH_P_IPV6): {
		struct ipv6hdr *ip = (void *)(eth + 1);
		if ((void *)(ip + 1) > end)
			return drop(port_id, PORT_TRUNCATED, frames);
		const __u32 *source = ip->saddr.in6_u.u6_addr32, *destination = ip->daddr.in6_u.u6_addr32;
		protocol = ip->nexthdr;
		if (!is_host && !is_own_v6(port, source)) {
			/* Neighbour discovery speaks from :: and from link-local; the worker looks at it closely. */
			bool quiet = !(source[0] | source[1] | source[2] | source[3]);
			bool local = (source[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
			if (!(quiet || local) || (protocol != IPPROTO_ICMPV6 && protocol != IPPROTO_HOPOPTS))
				return drop(port_id, PORT_SPOOFED, frames);
		}
		folded = bpf_ntohl(source[0] ^ source[1] ^ source[2] ^ source[3] ^ destination[0] ^ destination[1] ^
				   destination[2] ^ destination[3]);
		ports = l4_ports(ip + 1, end, protocol);
		if (!is_host)
			look_at_v6(&plain, ip, end, skb->len - ETH_HLEN);
		break;
	}
	case bpf_htons(ETH_P_ARP): {
		/* hardware type and length, protocol type and length, operation, sender MAC, sender address */
		__u8 *arp = (void *)(eth + 1);
		if ((void *)(arp + 28) > end)
			return drop(port_id, PORT_TRUNCATED, frames);
		__u32 sender;
		__builtin_memcpy(&sender, arp + 14, sizeof(sender));
		if (!is_host && (!same_mac(arp + 8, port->mac) || (sender && !is_own_v4(port, sender))))
			return drop(port_id, PORT_SPOOFED, frames);
		break;
	}
	default:
		return drop(port_id, PORT_UNKNOWN_ETHERTYPE, frames);
	}

	if (plain.has_key) {
		__u32 slot = 0;
		flow = find_flow(&plain.key, &slot);
		struct port *target = flow ? target_of(flow, port_id, port) : NULL;
		if (!target) {
			flow = NULL;
		} else if (!plain.is_plain || (skb->gso_size && !skb->gso_segs) ||
			   (skb->gso_size ? skb->gso_size + plain.headers : skb->len) > target->mtu + ETH_HLEN) {
			/*
			 * It goes up, and what follows must not overtake it: not before a frame behind it has come back. The
			 * marks go on: one that was used lately may still be under way.
			 */
			flow->direct = 0;
			flow->mark_frames = 0;
			flow = NULL;
		} else if (plain.is_bare && is_kept_back(&plain)) {
			return drop(port_id, PORT_BUDGET, frames);
		} else if (flow->direct || is_drained(flow)) {
			if (!flow->direct)
				flow->direct = 1;
			int action = carry(skb, slot, target, flow->target_port, &plain, frames, is_direct);
			if (action >= 0)
				return action;
			flow = NULL;
		} else if (flow->hold_ns) {
			if (bpf_ktime_get_ns() < flow->hold_ns)
				return drop(port_id, PORT_BUDGET, frames);
			flow->hold_ns = 0;
		}
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
		eth = data;
		if ((void *)(eth + 1) > end)
			return drop(port_id, PORT_TRUNCATED, frames);
	}

	__u32 zero = 0;
	struct settings *settings = bpf_map_lookup_elem(&SETTINGS, &zero);
	if (!settings || !settings->workers)
		return drop_unknown(frames);
	__u32 worker = steer(folded, protocol, ports, settings->workers);
	/* Said in assembly, or the compiler proves it away and the verifier cannot. */
	asm volatile("%0 &= %1" : "+r"(worker) : "i"(WORKERS_MAX - 1));
	__u32 near = settings->trunk_ifindex[worker];

	struct round *round = bpf_map_lookup_elem(&ROUNDS, &worker);
	__u32 account = port_id * WORKERS_MAX + worker;
	struct spent *spent = bpf_map_lookup_elem(&SPENT, &account);
	if (!round || !spent)
		return drop_unknown(frames);
	/* Two CPUs may race here for one port: it then gets a little more or a little less, never without bound. */
	__u32 number = *(volatile __u32 *)&round->number;
	if (spent->round != number) {
		spent->round = number;
		spent->frames = 0;
	}
	__u32 before = spent->frames;
	if (before >= *(volatile __u32 *)&round->quota) {
		/* A flow without a pause, of which some is lost anyway: some more, once, and it needs the worker no longer. */
		if (flow && plain.key.protocol == IPPROTO_UDP && flow->mark_frames)
			flow->hold_ns = bpf_ktime_get_ns() + HOLD_NS;
		return drop(port_id, PORT_BUDGET, frames);
	}
	__sync_fetch_and_add(&spent->frames, frames);

	write_tag(eth, port_id, flow ? next_mark(flow, &plain, frames) : 0);
	count_port(port_id, PORT_SENT, frames);
	count_queue(worker, QUEUE_SENT, frames);
	return bpf_redirect(near, 0);
}

SEC("classifier")
int pod(struct __sk_buff *skb)
{
	__u32 id = 0;
	struct port *port = find_port(skb->ifindex, &id);
	return port ? from_port(skb, port, id, false) : drop_unknown(skb->gso_segs ? skb->gso_segs : 1);
}

SEC("classifier")
int host(struct __sk_buff *skb)
{
	__u32 mark = skb->mark, id = 0;
	bool is_host = (mark & ~MARK_PORT) != MARK_FROM_DIRECT;
	struct port *port;
	if (is_host) {
		port = find_port(skb->ifindex, &id);
	} else {
		/* What `nic` sent is its port's, and no more trusted than what comes from a pod. */
		id = mark & MARK_PORT;
		skb->mark = 0;
		port = bpf_map_lookup_elem(&PORTS, &id);
		if (port && !(port->flags & PORT_DIRECT))
			port = NULL;
	}
	return port ? from_port(skb, port, id, is_host) : drop_unknown(skb->gso_segs ? skb->gso_segs : 1);
}

/* Notes that a marked frame came back. */
static __always_inline void note_echo(const struct ethhdr *eth, const void *end, __u32 mark, __u32 frames)
{
	struct plain plain = {};
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		const struct iphdr *ip = (const void *)(eth + 1);
		if ((const void *)(ip + 1) > end)
			return;
		look_at_v4(&plain, ip, end, 0);
	} else {
		const struct ipv6hdr *ip = (const void *)(eth + 1);
		if ((const void *)(ip + 1) > end)
			return;
		look_at_v6(&plain, ip, end, 0);
	}
	__u32 slot = 0;
	struct flow *flow = plain.has_key ? find_flow(&plain.key, &slot) : NULL;
	if (!flow)
		return;
	if (flow->echo != mark) {
		flow->echo = mark;
		flow->echo_frames = 0;
	}
	flow->echo_frames += frames;
	flow->echo_ns = bpf_ktime_get_ns();
}

SEC("classifier")
int trunk(struct __sk_buff *skb)
{
	struct ethhdr *eth = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	__u32 port_id = PORTS_MAX, mark = 0;
	/* What was merged on the way left its worker in parts. */
	__u32 frames = skb->gso_segs ? skb->gso_segs : 1;
	count_queue(SLOT_OF_NONE, QUEUE_SEEN, frames);
	if ((void *)(eth + 1) <= end && eth->h_dest[0] == TAG_0 && eth->h_dest[1] == TAG_1 && eth->h_dest[2] == TAG_TO_PORT) {
		port_id = (__u32)(eth->h_dest[3] & 3) << 8 | eth->h_dest[4];
		mark = (__u32)(eth->h_dest[3] >> 2) << 8 | eth->h_dest[5];
	}
	struct port *port = bpf_map_lookup_elem(&PORTS, &port_id);
	if (!port || !port->ifindex || port->flags & PORT_DIRECT) {
		count_queue(0, QUEUE_BAD_TAG, frames);
		return TC_ACT_SHOT;
	}
	/* redirect_peer does not look at the MTU. */
	if (!skb->gso_size && skb->len > port->mtu + ETH_HLEN)
		return drop(port_id, PORT_TOO_BIG, frames);
	if ((void *)(eth + 1) > end)
		return drop(port_id, PORT_TRUNCATED, frames);
	if (mark)
		note_echo(eth, end, mark, frames);
	__builtin_memcpy(eth->h_dest, port->mac, ETH_ALEN);
	count_port(port_id, PORT_DELIVERED, frames);
	return bpf_redirect_peer(port->ifindex, 0);
}

/* At penstock0's outer end: what `pod` sends to a NIC. Everything else is for the host. */
SEC("classifier")
int outer(struct __sk_buff *skb)
{
	__u32 mark = skb->mark, port_id = mark & MARK_PORT;
	if ((mark & ~MARK_PORT) != MARK_TO_DIRECT)
		return TC_ACT_UNSPEC;
	__u32 frames = skb->gso_segs ? skb->gso_segs : 1;
	const struct port *port = bpf_map_lookup_elem(&PORTS, &port_id);
	if (!port || !(port->flags & PORT_DIRECT) || !port->nic)
		return drop_unknown(frames);
	skb->mark = 0;
	return bpf_redirect(port->nic, 0);
}

/*
 * At the interface of a direct port: what `direct` lets pass, merged by the stack; all there is while no switch runs and its
 * program is gone. Nothing goes on to the host.
 */
SEC("classifier")
int nic(struct __sk_buff *skb)
{
	__u32 zero = 0, place = skb->ifindex | QUEUE_DIRECT;
	const __u32 *id = bpf_map_lookup_elem(&PORT_BY_IFINDEX, &place);
	const struct settings *settings = bpf_map_lookup_elem(&SETTINGS, &zero);
	if (!id || !settings || !settings->outer_ifindex)
		return drop_unknown(skb->gso_segs ? skb->gso_segs : 1);
	skb->mark = MARK_FROM_DIRECT | (*id & MARK_PORT);
	/* It is addressed to the gateway, which the stack takes for somebody else; older kernels do not forget that on the way. */
	bpf_skb_change_type(skb, PACKET_HOST);
	return bpf_redirect_peer(settings->outer_ifindex, 0);
}

/*
 * May a frame of a direct port pass by the stack? If not, and its flow is to once nothing of it is under way, it gets a mark, where
 * one from outside would have stood in vain.
 */
static __always_inline bool passes(struct xdp_md *ctx, __u32 slot)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	const __u8 gateway[ETH_ALEN] = GATEWAY_MAC;
	struct plain plain = {};
	if ((void *)(eth + 1) > end)
		return false;
	/* Only a program's tag is a tag. */
	if (eth->h_dest[0] == TAG_0 && eth->h_dest[1] == TAG_1 && eth->h_dest[2] == TAG_FROM_PORT)
		eth->h_dest[2] = 0;
	/* Should it reach the host in spite of all, then as somebody else's frame. */
	if (!same_mac(eth->h_dest, gateway))
		return false;
	const __u32 *id = bpf_map_lookup_elem(&PASSING, &slot);
	if (!id || !*id)
		return false;
	__u32 port_id = *id;
	struct port *port = bpf_map_lookup_elem(&PORTS, &port_id);
	if (!port || !(port->flags & PORT_DIRECT) || !same_mac(eth->h_source, port->mac))
		return false;
	__u32 ip_len = bpf_xdp_get_buff_len(ctx) - ETH_HLEN;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);
		if ((void *)(ip + 1) > end || !is_own_v4(port, ip->saddr))
			return false;
		look_at_v4(&plain, ip, end, without_padding(ip, ip_len));
	} else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)(eth + 1);
		if ((void *)(ip + 1) > end || !is_own_v6(port, ip->saddr.in6_u.u6_addr32))
			return false;
		look_at_v6(&plain, ip, end, ip_len);
	}
	if (!plain.has_key)
		return false;
	__u32 row = 0;
	struct flow *flow = find_flow(&plain.key, &row);
	const struct port *target = flow ? target_of(flow, port_id, port) : NULL;
	if (!target)
		return false;
	if (!plain.is_plain || ip_len > target->mtu || ip_len > port->mtu) {
		/* As in `from_port`. */
		flow->direct = 0;
		flow->mark_frames = 0;
		return false;
	}
	if (flow->direct || is_drained(flow))
		return true;
	write_tag(eth, port_id, next_mark(flow, &plain, 1));
	return false;
}

/* Unlike libxdp's stock program this one drops when nobody listens. */
static __always_inline int to_socket(struct xdp_md *ctx, const __u32 *slot)
{
	if (!slot) {
		count_queue(SLOT_OF_NONE, QUEUE_NO_SOCKET, 1);
		return XDP_DROP;
	}
	count_queue(*slot, QUEUE_SEEN, 1);
	int action = bpf_redirect_map(&XSKS, *slot, XDP_DROP);
	if (action != XDP_REDIRECT)
		count_queue(*slot, QUEUE_NO_SOCKET, 1);
	return action;
}

SEC("xdp.frags")
int queue(struct xdp_md *ctx)
{
	struct queue_key key = { ctx->ingress_ifindex, ctx->rx_queue_index };
	return to_socket(ctx, bpf_map_lookup_elem(&QUEUES, &key));
}

SEC("xdp.frags")
int direct(struct xdp_md *ctx)
{
	struct queue_key key = { ctx->ingress_ifindex, ctx->rx_queue_index | QUEUE_DIRECT };
	const __u32 *slot = bpf_map_lookup_elem(&QUEUES, &key);
	if (slot && passes(ctx, *slot))
		return XDP_PASS;
	return to_socket(ctx, slot);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
