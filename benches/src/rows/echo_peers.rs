//! The peers of row 7: the same server with a task or coroutine per connection, written in each peer's own style.

use std::io;
use std::net::TcpListener;

use super::served_load::ready;
use crate::harness::Problem;

const BUFFER_BYTES: usize = 4096;

/// The lifetime of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Until the client closes it.
    Long,
    /// For one message.
    OneMessage,
}

/// Runs the peer of this name until the process ends. Returns `None` if there is none.
pub fn serve(peer: &str, life: Life) -> Option<Result<(), Problem>> {
    match peer {
        "tokio" => Some(tokio(life)),
        "may" => Some(may(life)),
        "monoio" => Some(monoio(life)),
        "compio" => Some(compio(life)),
        "glommio" => Some(glommio(life)),
        _ => None,
    }
}

/// Creates a listening socket, and reports its port to the measuring process.
fn listen() -> Result<TcpListener, Problem> {
    let listener = crate::epoll::listen()?;
    ready(listener.local_addr()?.port())?;
    Ok(listener)
}

/// Serves with tokio's current-thread runtime.
fn tokio(life: Life) -> Result<(), Problem> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let serve = async |listener: TcpListener| {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (mut stream, _) = listener.accept().await?;
            tokio::spawn(async move {
                let mut buffer = [0; BUFFER_BYTES];
                loop {
                    let count = stream.read(&mut buffer).await?;
                    if count == 0 {
                        return Ok::<(), io::Error>(());
                    }
                    stream.write_all(&buffer[..count]).await?;
                    if life == Life::OneMessage {
                        return Ok(());
                    }
                }
            });
        }
    };
    runtime.block_on(serve(listen()?))
}

/// Serves with may on one worker.
fn may(life: Life) -> Result<(), Problem> {
    use std::io::{Read, Write};
    may::config().set_workers(1);
    let listener = may::net::TcpListener::bind("127.0.0.1:0")?;
    ready(listener.local_addr()?.port())?;
    loop {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(life == Life::Long)?;
        may::go!(move || {
            let mut buffer = [0; BUFFER_BYTES];
            loop {
                let count = stream.read(&mut buffer)?;
                if count == 0 {
                    return Ok::<(), io::Error>(());
                }
                stream.write_all(&buffer[..count])?;
                if life == Life::OneMessage {
                    return Ok(());
                }
            }
        });
    }
}

/// Serves with monoio on io_uring.
fn monoio(life: Life) -> Result<(), Problem> {
    use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
    let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
        .with_entries(2048)
        .build()?;
    let serve = async |listener: TcpListener| {
        let listener = monoio::net::TcpListener::from_std(listener)?;
        loop {
            let (mut stream, _) = listener.accept().await?;
            monoio::spawn(async move {
                let mut buffer = Vec::with_capacity(BUFFER_BYTES);
                loop {
                    let (count, back) = stream.read(buffer).await;
                    if count? == 0 {
                        return Ok::<(), io::Error>(());
                    }
                    let (written, back) = stream.write_all(back).await;
                    written?;
                    if life == Life::OneMessage {
                        return Ok(());
                    }
                    buffer = back;
                    buffer.clear();
                }
            });
        }
    };
    runtime.block_on(serve(listen()?))
}

/// Serves with compio on io_uring.
fn compio(life: Life) -> Result<(), Problem> {
    use compio::buf::BufResult;
    use compio::io::{AsyncRead, AsyncWriteExt};
    let serve = async |listener: TcpListener| {
        let listener = compio::net::TcpListener::from_std(listener)?;
        loop {
            let (mut stream, _) = listener.accept().await?;
            let serve = async move {
                let mut buffer = Vec::with_capacity(BUFFER_BYTES);
                loop {
                    let BufResult(count, back) = stream.read(buffer).await;
                    if count? == 0 {
                        return Ok::<(), io::Error>(());
                    }
                    let BufResult(written, back) = stream.write_all(back).await;
                    written?;
                    if life == Life::OneMessage {
                        return Ok(());
                    }
                    buffer = back;
                    buffer.clear();
                }
            };
            compio::runtime::spawn(serve).detach();
        }
    };
    compio::runtime::Runtime::new()?.block_on(serve(listen()?))
}

/// Serves with glommio, which supports only io_uring. Its reads do not hand the caller's buffer to the kernel: it waits
/// for readiness and then calls.
fn glommio(life: Life) -> Result<(), Problem> {
    use futures::io::{AsyncReadExt, AsyncWriteExt};
    use std::os::fd::{FromRawFd, IntoRawFd};
    let failed = |error: glommio::GlommioError<()>| Problem::failed(format!("glommio: {error}"));
    let executor = glommio::LocalExecutorBuilder::new(glommio::Placement::Unbound)
        .make()
        .map_err(failed)?;
    let serve = async |listener: TcpListener| {
        // SAFETY: the listening socket has no other owner.
        let listener = unsafe { glommio::net::TcpListener::from_raw_fd(listener.into_raw_fd()) };
        loop {
            let mut stream = listener.accept().await.map_err(failed)?;
            let serve = async move {
                let mut buffer = [0; BUFFER_BYTES];
                loop {
                    let count = stream.read(&mut buffer).await?;
                    if count == 0 {
                        return Ok::<(), io::Error>(());
                    }
                    stream.write_all(&buffer[..count]).await?;
                    if life == Life::OneMessage {
                        return Ok(());
                    }
                }
            };
            glommio::spawn_local(serve).detach();
        }
    };
    executor.run(serve(listen()?))
}
