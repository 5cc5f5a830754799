//! Tests of the pins.
