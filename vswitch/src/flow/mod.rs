//! What the switch remembers of flows: the cache, connection tracking and fragments.
