//! The event loop: owns everything, alone reads the clock.

pub mod data_plane;
pub mod handle;
