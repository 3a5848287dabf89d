//! Rust values as arguments and results, through serde.

use crate::buffer::Response;
use crate::error::{Error, ErrorKind};
use crate::proto::value::Reader;
use crate::proto::{Params, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

const NIL: &[u8] = &[0xc0];

/// Appends one value.
pub(super) fn append<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<(), Error> {
    let mut serializer = rmp_serde::Serializer::new(out).with_struct_map();
    value.serialize(&mut serializer).map_err(|error| {
        let text = format!("a value cannot be sent: {error}");
        Error::new(ErrorKind::Argument, text)
    })
}

/// Appends arguments: the elements of a tuple or a list, nothing for `()`, else the single value.
pub(super) fn append_params<P: Serialize>(out: &mut Vec<u8>, params: &P) -> Result<u32, Error> {
    let start = out.len();
    append(out, params)?;
    let mut reader = Reader::new(&out[start..]);
    if reader.read_nil() {
        out.truncate(start);
        return Ok(0);
    }
    let Some(count) = reader.read_array() else {
        return Ok(1);
    };
    let header = out.len() - start - reader.rest().len();
    out.drain(start..start + header);
    Ok(count)
}

/// Reads arguments into a Rust value, the reverse of [`append_params`].
pub(super) fn read_params<P: DeserializeOwned>(
    params: Params<'_>,
) -> Result<P, rmp_serde::decode::Error> {
    let whole = rmp_serde::from_slice(params.array);
    match (whole, params.count) {
        (Err(_), 0) => rmp_serde::from_slice(NIL),
        // If the list as a whole does not fit, its only element may. If neither fits, the error is about that element.
        (Err(_), 1) => rmp_serde::from_slice(params.bytes),
        (whole, _) => whole,
    }
}

/// Reads an answer into a Rust value: no result is `()` or `None`, several results are a tuple.
pub(super) fn read_results<R: DeserializeOwned>(response: &Response) -> Result<R, Error> {
    let read = match response.count() {
        0 => rmp_serde::from_slice(NIL),
        1 => rmp_serde::from_slice(response.bytes()),
        count => {
            let mut array = Vec::with_capacity(response.bytes().len() + 5);
            let values = |out: &mut Vec<u8>| {
                out.extend_from_slice(response.bytes());
                Ok(count)
            };
            encode::array(&mut array, values)?;
            rmp_serde::from_slice(&array)
        }
    };
    read.map_err(|error| {
        let text = format!("the answer is not of the expected type: {error}");
        Error::new(ErrorKind::Argument, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Segment;
    use serde::Deserialize;
    use std::fmt::Debug;

    fn through<P: Serialize, Q: DeserializeOwned>(
        params: &P,
    ) -> Result<Q, rmp_serde::decode::Error> {
        let mut array = Vec::new();
        let count = encode::array(&mut array, |out| append_params(out, params)).unwrap();
        let mut reader = Reader::new(&array);
        reader.read_array().unwrap();
        read_params(Params {
            count,
            bytes: reader.rest(),
            array: &array,
        })
    }

    fn same<P: Serialize + DeserializeOwned + PartialEq + Debug>(params: P) {
        assert_eq!(through::<P, P>(&params).unwrap(), params);
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Point {
        x: f64,
        name: Option<String>,
    }

    #[test]
    fn arguments_of_every_shape_come_back() {
        same(());
        same((1, "two".to_owned(), vec![3u8]));
        same(7);
        same("alone".to_owned());
        same((vec![1, 2],));
        same(vec![1i64; 100]);
        same(Point { x: 1.5, name: None });
        same((
            Point {
                x: -0.0,
                name: Some(String::new()),
            },
            3u8,
        ));
    }

    #[test]
    fn a_wrong_number_of_arguments_is_an_error() {
        assert!(through::<_, (i64, i64)>(&(1,)).is_err());
        assert!(through::<_, (i64, i64)>(&()).is_err());
        assert!(through::<_, String>(&(1, 2)).is_err());
    }

    #[test]
    fn results_none_one_and_several() {
        let response = |bytes: &[u8], count| {
            Response::new(Segment::new(bytes.to_vec(), None), 0..bytes.len(), count)
        };
        read_results::<()>(&response(&[], 0)).unwrap();
        assert_eq!(
            read_results::<Option<i64>>(&response(&[], 0)).unwrap(),
            None
        );
        assert_eq!(read_results::<i64>(&response(&[5], 1)).unwrap(), 5);
        assert_eq!(
            read_results::<(i64, i64)>(&response(&[5, 6], 2)).unwrap(),
            (5, 6)
        );
        assert_eq!(
            read_results::<String>(&response(&[5], 1))
                .unwrap_err()
                .kind(),
            ErrorKind::Argument
        );
    }
}
