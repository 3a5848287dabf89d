//! Whole-system tests of yue
