//! The body of a request, as hyper takes it.

use hyper::body::{Body, Bytes, Frame, SizeHint};
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// Bytes of a whole body that hyper takes at a time: it copies them to its buffer.
const PIECE_BYTES: usize = 64 * 1024;

/// The pieces of a body, from the fiber that drives hyper. No waker is needed: that fiber polls again after each piece.
#[derive(Default)]
pub(super) struct Feed {
    piece: RefCell<Option<Bytes>>,
    /// hyper has asked for a piece, and there was none.
    is_wanted: Cell<bool>,
    has_ended: Cell<bool>,
    /// A piece, or the end, was put in.
    is_begun: Cell<bool>,
}

impl Feed {
    /// Whether a piece, or the end, is to be put in.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_wanted.get()
    }

    /// Whether the end was put in.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.get()
    }

    /// Whether something was put in.
    pub(super) fn is_begun(&self) -> bool {
        self.is_begun.get()
    }

    /// Puts in the next piece; `None` is the end.
    pub(super) fn put(&self, piece: Option<Bytes>) {
        debug_assert!(!self.has_ended.get(), "a piece after the end");
        self.is_begun.set(true);
        self.is_wanted.set(false);
        self.has_ended.set(piece.is_none());
        *self.piece.borrow_mut() = piece;
    }
}

/// The body of a request.
pub(super) enum Outgoing {
    Whole(Bytes),
    Pieces(Rc<Feed>),
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Outgoing::Whole(rest) if rest.is_empty() => Poll::Ready(None),
            Outgoing::Whole(rest) => {
                let piece = rest.split_to(rest.len().min(PIECE_BYTES));
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Outgoing::Pieces(feed) => {
                let piece = feed.piece.take();
                if let Some(piece) = piece {
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                if feed.has_ended.get() {
                    return Poll::Ready(None);
                }
                feed.is_wanted.set(true);
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Outgoing::Whole(rest) => rest.is_empty(),
            Outgoing::Pieces(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Outgoing::Whole(rest) => SizeHint::with_exact(rest.len() as u64),
            Outgoing::Pieces(_) => SizeHint::default(),
        }
    }
}
