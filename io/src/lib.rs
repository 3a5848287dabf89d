//! Sockets, signals and drivers (io_uring, epoll) for yue fibers
