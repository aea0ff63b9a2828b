//! The record: MCAP writer and reader, replay, verify, simulate.
