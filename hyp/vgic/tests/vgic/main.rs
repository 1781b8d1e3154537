//! Tests of the virtual interrupt controller against simulated list registers, and against a model of the GIC.

mod bytes;
mod encoding;
mod faces;
mod hw;
mod lists;
mod machine;
mod model;
mod races;
mod random;
