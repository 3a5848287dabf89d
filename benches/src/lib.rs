//! Every figure yue publishes, beside its peers and ceilings
