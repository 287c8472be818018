/* What bulk.bpf.c and src/io/bulk.rs agree on. */
#ifndef PENSTOCK_BULK_H
#define PENSTOCK_BULK_H

#define BULK_FRAMES 1024
#define BULK_LEN_MAX 2040
/* Frames lie one behind the other: those of 64 bytes that a call sends fit the first cache. */
#define BULK_BYTES (1024 * 1024)

struct bulk_bytes {
	__u8 data[BULK_BYTES];
};

struct bulk_frame {
	__u32 at; /* where it begins in the bytes */
	__u32 len;
};

struct bulk_state {
	__u32 next; /* frame to be sent by the next run */
	__u32 refused; /* frames that were not given to the interface */
	struct bulk_frame frames[BULK_FRAMES];
};

#endif
