//! The body of an answer: whole, or piece by piece as the connection's fiber makes it.

use hyper::body::{Body, Bytes, Frame, SizeHint};
use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// The body of an answer, as hyper takes it.
pub(super) enum AnswerBody {
    /// Sent as one piece.
    Whole(Option<Bytes>),
    /// Sent as the fiber makes it; with a length if that is known, otherwise in chunks.
    Pulled(Rc<Pipe>, Option<u64>),
}

impl AnswerBody {
    pub(super) fn empty() -> AnswerBody {
        AnswerBody::Whole(None)
    }
}

/// The fiber gave up an answer whose head has left: the connection ends, so that the peer notices.
#[derive(Debug, thiserror::Error)]
#[error("the body of the answer is not complete")]
pub(super) struct Incomplete;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum End {
    #[default]
    Open,
    Complete,
    Incomplete,
    /// hyper wants no more of it.
    Dropped,
}

/// One piece of a body on its way from the fiber to hyper. The fiber polls hyper after each change, so that no waker is
/// needed.
#[derive(Default)]
pub(super) struct Pipe {
    piece: Cell<Option<Bytes>>,
    end: Cell<End>,
}

impl Pipe {
    /// Adds a piece. The one before has been taken.
    pub(super) fn put(&self, piece: Bytes) {
        let before = self.piece.replace(Some(piece));
        debug_assert!(before.is_none(), "a piece is taken before the next");
    }

    /// Whether hyper has taken the piece.
    pub(super) fn is_empty(&self) -> bool {
        let piece = self.piece.take();
        let is_empty = piece.is_none();
        self.piece.set(piece);
        is_empty
    }

    /// Whether hyper takes nothing any more.
    pub(super) fn is_dropped(&self) -> bool {
        self.end.get() == End::Dropped
    }

    /// No piece follows.
    pub(super) fn end(&self, is_complete: bool) {
        if self.end.get() == End::Open {
            self.end.set(match is_complete {
                true => End::Complete,
                false => End::Incomplete,
            });
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Incomplete;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Incomplete>>> {
        match &mut *self {
            AnswerBody::Whole(bytes) => {
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
            AnswerBody::Pulled(pipe, _) => match (pipe.piece.take(), pipe.end.get()) {
                (Some(piece), _) => Poll::Ready(Some(Ok(Frame::data(piece)))),
                (None, End::Open) => Poll::Pending,
                (None, End::Incomplete) => Poll::Ready(Some(Err(Incomplete))),
                (None, End::Complete | End::Dropped) => Poll::Ready(None),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, AnswerBody::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AnswerBody::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            AnswerBody::Pulled(_, Some(length)) => SizeHint::with_exact(*length),
            AnswerBody::Pulled(_, None) => SizeHint::default(),
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        if let AnswerBody::Pulled(pipe, _) = self {
            pipe.piece.take();
            pipe.end.set(End::Dropped);
        }
    }
}
