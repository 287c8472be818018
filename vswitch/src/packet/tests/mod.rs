//! Tests of the whole module. etherparse writes the frames and reads the answers: a second opinion that shares no code.

mod accepted;
mod answers;
mod frames;
mod random;
mod refused;
