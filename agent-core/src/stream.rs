//! Segments of one direction -> bytes in order, with explicit gaps, in bounded memory.
