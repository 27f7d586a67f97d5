//! Measuring tools of the benchmarks.

pub mod load;
