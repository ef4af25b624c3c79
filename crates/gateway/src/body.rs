//! The one body type of all answers: an enum, so that no frame goes through a boxed body on its way to the client.

use crate::body_error::BodyError;
use crate::upstream::UpstreamBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};

/// A body on its way to the client.
pub(crate) enum GatewayBody {
    Empty,
    /// The whole body of an answer of the gateway's own.
    Text(Bytes),
    /// The body of an application's answer, streamed.
    Upstream(UpstreamBody),
    /// The body of the control plane's answer.
    Control(axum::body::Body),
}

impl Body for GatewayBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this {
            GatewayBody::Empty => Poll::Ready(None),
            GatewayBody::Text(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = GatewayBody::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            GatewayBody::Upstream(body) => body.poll_frame(cx).map_err(BodyError::Upstream),
            GatewayBody::Control(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::Control),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            GatewayBody::Empty => true,
            GatewayBody::Text(bytes) => bytes.is_empty(),
            GatewayBody::Upstream(body) => body.is_end_stream(),
            GatewayBody::Control(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            GatewayBody::Empty => SizeHint::with_exact(0),
            GatewayBody::Text(bytes) => SizeHint::with_exact(bytes.len() as u64),
            GatewayBody::Upstream(body) => body.size_hint(),
            GatewayBody::Control(body) => body.size_hint(),
        }
    }
}
