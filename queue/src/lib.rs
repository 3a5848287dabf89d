//! Lock-free queues between event loops, with epoch-based reclamation
