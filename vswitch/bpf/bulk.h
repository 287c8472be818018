/* What bulk.bpf.c and src/io/bulk.rs agree on. */
#ifndef PENSTOCK_BULK_H
#define PENSTOCK_BULK_H

#define BULK_FRAMES 256
#define BULK_SLOT 2048

struct bulk_slot {
	__u32 len;
	__u32 pad;
	__u8 data[BULK_SLOT - 8];
};

struct bulk_state {
	__u32 next; /* slot to be sent by the next run */
	__u32 refused; /* frames that were not given to the interface */
};

#endif
