/* What the programs and the switch agree on. Mirrored by src/io/maps.rs, whose test compares the sizes. */
#ifndef PENSTOCK_H
#define PENSTOCK_H

#define WORKERS_MAX 16
#define PORTS_MAX 1024
#define XSKS_MAX 64
#define PORT_ADDRESSES_MAX 4

/* Destination MAC of a tagged frame: 02:50:<kind>:<port, big endian>:00. Locally administered, unicast. */
#define TAG_0 0x02
#define TAG_1 0x50
#define TAG_FROM_PORT 0x01
#define TAG_TO_PORT 0x02

/* A port, as the programs see it. Written by the switch before the host end goes up. */
struct port {
	__u32 ifindex; /* of the host end; 0: no such port */
	__u32 mtu;
	__u8 mac[6]; /* of the far side */
	__u8 v4_len;
	__u8 v6_len;
	__u32 v4[PORT_ADDRESSES_MAX]; /* network order */
	__u32 v6[PORT_ADDRESSES_MAX][4];
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
