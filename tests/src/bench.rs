//! Measuring tools of the benchmarks.

pub mod disks;
pub mod evidence;
pub mod images;
pub mod load;
