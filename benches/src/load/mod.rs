//! Load generators: the same code for every contestant.
