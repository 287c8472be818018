/* The maps of penstock.bpf.c, all pinned. Layouts are in penstock.h. */
#ifndef PENSTOCK_MAPS_H
#define PENSTOCK_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "penstock.h"

/* Mapped by the switch for the epochs. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PORTS_MAX);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct port);
} PORTS SEC(".maps");

/* From the hash of a key to rows of FLOWS. Mapped by the switch: an entry is one store. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << BUCKET_BITS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct bucket);
} SHORTCUTS SEC(".maps");

/* Mapped by the switch, which leaves a row alone for a while before it is another flow's. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SHORTCUTS_MAX);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct flow);
} FLOWS SEC(".maps");

/* Mapped by the switch, which sets its size when it loads: SHORTCUTS_MAX rows for each CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SHORTCUTS_MAX);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct carried);
} CARRIED SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PORTS_MAX);
	__type(key, __u32);
	__type(value, __u32);
} PORT_BY_IFINDEX SEC(".maps");

/*
 * The port that last got an interface whose number ends in these bits: a look-up that costs nothing, nearly always right, and its
 * entry says whether it is.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PORT_GUESSES);
	__type(key, __u32);
	__type(value, __u32);
} PORT_BY_GUESS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct settings);
} SETTINGS SEC(".maps");

/* Mapped by the switch: one store per round refills every port's budget. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, WORKERS_MAX);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct round);
} ROUNDS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PORTS_MAX * WORKERS_MAX);
	__type(key, __u32);
	__type(value, struct spent);
} SPENT SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, XSKS_MAX);
	__type(key, struct queue_key);
	__type(value, __u32);
} QUEUES SEC(".maps");

/* By slot: the direct port whose flows may pass by the stack, since its interface has the program `nic`; 0: none may. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, XSKS_MAX);
	__type(key, __u32);
	__type(value, __u32);
} PASSING SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, XSKS_MAX);
	__type(key, __u32);
	__type(value, __u32);
} XSKS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PORTS_MAX * PORT_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} PORT_COUNTS SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, XSKS_MAX * QUEUE_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} QUEUE_COUNTS SEC(".maps");

#endif
