//! Measuring tools of the benchmarks.

pub mod evidence;
pub mod load;
