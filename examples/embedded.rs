//! A loop inside a thread that the program owns: a game draws sixty frames a second and serves the network between
//! frames, on one thread and without a lock.
//!
//! Run it with `cargo run -p yue --example embedded`; it ends by itself.
use std::cell::Cell;
use std::io::{self, Read, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};
use yue::net::{TcpListener, TcpStream};
use yue::{Runtime, Tick};

const FRAME: Duration = Duration::from_nanos(1_000_000_000 / 60);

fn main() -> io::Result<()> {
    let network = Runtime::new()?;
    // Data shared by fibers and frames needs no lock: both run on this thread, one at a time.
    let score = Rc::new(Cell::new(0));
    let shared = score.clone();
    network.enter(|| {
        drop(yue::spawn(move || -> io::Result<()> {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let address = listener.local_addr()?;
            drop(yue::spawn(move || player(address)));
            let (mut stream, _) = listener.accept()?;
            let mut points = [0];
            while stream.read(&mut points)? == 1 {
                shared.set(shared.get() + u32::from(points[0]));
            }
            Ok(())
        }));
    });
    for frame in 0.. {
        let next_frame = Instant::now() + FRAME;
        println!("frame {frame}: score {}", score.get());
        // The fibers run for the rest of the frame's time.
        while Instant::now() < next_frame {
            match network.tick()? {
                Tick::Runnable => {}
                Tick::IdleUntil(_) => std::thread::sleep(Duration::from_millis(1)),
                Tick::Done => {
                    println!("the end: score {}", score.get());
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// Plays one game over the network.
fn player(address: std::net::SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    for points in [3, 1, 4] {
        stream.write_all(&[points])?;
        yue::sleep(Duration::from_millis(30))?;
    }
    Ok(())
}
