//! Whole members that talk to each other in one thread, without loss: who is in, who is out, and with which token.

mod leaving;
mod rotating;
mod world;
