//! Whole members that talk to each other in one thread, without loss: who is in, who is out, and with which
//! token; who serves and who leads; clusters that meet or are lost.

mod clusters;
mod damaged;
mod leaving;
mod machines;
mod rotating;
mod servers;
mod world;
