//! Founding as people see it (`rules`), its proof (`certificate`), under random faults with real signatures (`schedules`), and its core in every
//! schedule there is (`explore`).

mod certificate;
mod explore;
mod rules;
mod schedules;
mod world;
