"""The decisions, pure: numbers in, decisions with reasons out. No I/O, no clock; the time is an argument."""
