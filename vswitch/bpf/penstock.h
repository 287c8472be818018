/* What the programs and the switch agree on. Mirrored by src/io/maps.rs, whose test compares the sizes. */
#ifndef PENSTOCK_H
#define PENSTOCK_H

#define WORKERS_MAX 16
#define PORTS_MAX 1024
#define XSKS_MAX 64
#define PORT_ADDRESSES_MAX 4

/*
 * Destination MAC of a tagged frame: 02:50:<kind>:<mark, upper six bits, and port, upper two>:<port>:<mark>. Locally
 * administered, unicast. A worker hands a mark on as it came; 0 is none.
 */
#define TAG_0 0x02
#define TAG_1 0x50
#define TAG_FROM_PORT 0x01
#define TAG_TO_PORT 0x02
#define MARK_MAX 0x3fff

/* What pods take for their gateway: the source of every frame to a pod. */
#define GATEWAY_MAC { 0x02, 0x50, 0x53, 0x00, 0x00, 0x01 }

/* Rows of PORT_GUESSES: a power of two, several times the number of ports. */
#define PORT_GUESSES 4096

/* Directions of flows that the kernel can carry at a time. */
#define SHORTCUTS_MAX 32768
/*
 * Their index: 2^BUCKET_BITS buckets, each of them half a line. An entry is SLOT_BITS of the row's number below TAG_BITS of the
 * key's hash, which are never 0; 0 is none.
 */
#define BUCKET_BITS 14
#define BUCKET_ENTRIES 8
#define SLOT_BITS 15
#define TAG_BITS 17
#define SEEDS 10
/* After the program at the trunk has seen a frame, until the pod's stack has surely taken it up. */
#define SETTLE_NS 50000
/* How long acknowledgements are kept back at most, and how long after it began that is tried again. */
#define KEEP_BACK_NS 2000000
#define KEEP_BACK_EVERY_NS 20000000
/* How long the budget's refusals are kept up, at most, to let the way through userspace run empty. */
#define HOLD_NS 20000000

/* A port, as the programs see it: two lines, and IPv4 reads one. Written by the switch before the host end goes up. */
struct port {
	/* Endpoint and revision of its policy; 0: no flow of it is carried here. One store by the switch revokes. */
	__u64 epoch;
	__u32 ifindex; /* of the host end; of a direct port, whence its frames leave for the host's namespace; 0: no such port */
	__u16 mtu;
	__u16 flags;
	__u8 mac[6]; /* of the far side */
	__u8 v4_len;
	__u8 v6_len;
	__u32 v4[PORT_ADDRESSES_MAX]; /* network order */
	__u32 v6[PORT_ADDRESSES_MAX][4];
	__u32 nic; /* of a direct port: its interface, in the host's namespace */
	__u32 zero;
	__u64 unused[2];
};

/* The port is an interface of the host's namespace, with a socket of its own. */
#define PORT_DIRECT 1

/*
 * In the upper bits of skb->mark, with the port below: a frame of the shortcut that one program sends to another in the other
 * namespace, by bpf_redirect_peer. Whatever else crosses between namespaces has its mark taken away by the kernel, so nobody in a
 * pod or on the host can write one.
 */
#define MARK_TO_DIRECT 0x50440000u
#define MARK_FROM_DIRECT 0x50460000u
#define MARK_PORT (PORTS_MAX - 1)

/* One direction of a flow, as its packets show it. */
struct flow_key {
	__u32 source[4]; /* IPv4: ::ffff:a.b.c.d */
	__u32 destination[4];
	__u32 ports; /* as in the packet */
	__u8 protocol;
	__u8 family; /* 4, 6 */
	__u16 zero;
};

/*
 * One direction of a flow that the switch handed over to the programs. The first line is written by the switch alone, and read
 * for every frame. The second finds the moment at which nothing of the flow is under way through userspace.
 */
struct flow {
	struct flow_key key;
	__u64 source_epoch; /* what the worker judged it under; 0: nobody's */
	__u64 target_epoch;
	__u16 source_port;
	__u16 target_port;
	__u32 direct; /* frames go straight to the target */
	/* --- */
	__u32 mark; /* of the last frame that went up with one; rows begin anywhere, and it goes on when all begins anew */
	__u32 mark_frames; /* in so many segments; 0: none went up since it began anew */
	__u32 echo; /* the mark of the last one that came back */
	__u32 echo_frames;
	__u64 echo_ns;
	__u64 hold_ns; /* until then what the budget refuses is refused on, so that the way through userspace runs empty */
	__u64 kept_back_ns; /* since when acknowledgements of it are dropped, so that its sender waits */
	__u32 end; /* of TCP: the sequence number after what went up with a mark; 0: not known */
	__u32 zero;
	__u64 unused[2];
};

/* Rows whose keys have these bits of the hash in common. */
struct bucket {
	__u32 entry[BUCKET_ENTRIES];
};

/* Per CPU: row cpu * SHORTCUTS_MAX + slot. */
struct carried {
	__u64 frames;
	__u64 bytes;
};

/* How many frames a port may send to one worker while that worker is in one round. The worker writes, programs read. */
struct round {
	__u32 number;
	__u32 quota;
};

/* What a port has spent of a worker's round. */
struct spent {
	__u32 round;
	__u32 frames;
};

struct settings {
	__u32 workers;
	__u32 trunk_ifindex[WORKERS_MAX]; /* near ends */
	__u32 outer_ifindex; /* penstock0's, in the host's namespace */
	/* Of the shortcut's hash. Random; as old as the maps. */
	__u64 seeds[SEEDS];
};

/*
 * Interfaces' numbers are unique in their namespace only: the trunks are in the switch's, direct ports in the host's. A queue of
 * a direct port has this bit set.
 */
#define QUEUE_DIRECT 0x80000000u

struct queue_key {
	__u32 ifindex;
	__u32 queue;
};

/*
 * The row of the queues' counters that is no socket's: QUEUE_NO_SOCKET counts frames that arrive on a queue which is no port,
 * QUEUE_SEEN those that come back from workers' trunks, QUEUE_BAD_TAG those that a port's interface let in before the programs knew
 * of the port or of a worker.
 */
#define SLOT_OF_NONE (XSKS_MAX - 1)

/* Per port, per CPU. */
enum port_counter {
	PORT_SENT, /* frames (segments) handed to a trunk */
	PORT_DELIVERED, /* frames delivered to the port */
	PORT_SPOOFED,
	PORT_BUDGET,
	PORT_VLAN,
	PORT_TOO_BIG,
	PORT_UNKNOWN_ETHERTYPE,
	PORT_TRUNCATED,
	PORT_COUNTERS,
};

/* Per slot of the socket map, per CPU. Slots below WORKERS_MAX are the workers' trunks, the others direct ports. */
enum queue_counter {
	QUEUE_SEEN,
	QUEUE_NO_SOCKET,
	QUEUE_SENT, /* frames the port programs redirected towards this slot's trunk */
	QUEUE_BAD_TAG, /* frames that came back for a port nobody has */
	QUEUE_COUNTERS,
};

#endif
