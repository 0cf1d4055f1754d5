//! Arrays of numbers as Postgres sends them. A month has hundreds of rows with four arrays each, and sqlx looks at the
//! type of every single element, which takes several times as long as adding it.

use sqlx::{
    Decode, Postgres, Type,
    error::BoxDynError,
    postgres::{PgTypeInfo, PgValueFormat, PgValueRef},
};

/// Bytes before the elements of an array of one dimension: the number of dimensions, whether there are nulls, the type,
/// the length and the first index, each of four bytes.
const HEAD: usize = 20;
/// Bytes of a bigint with its length before it.
const ELEMENT: usize = 12;

/// A `bigint[]` of one dimension without nulls.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Numbers(pub(super) Vec<i64>);

impl Type<Postgres> for Numbers {
    fn type_info() -> PgTypeInfo {
        <Vec<i64> as Type<Postgres>>::type_info()
    }
}

impl<'r> Decode<'r, Postgres> for Numbers {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        match value.format() {
            PgValueFormat::Binary => Self::parse(value.as_bytes()?).ok_or_else(|| "not an array of bigint".into()),
            PgValueFormat::Text => Err("an array is read in its binary form only".into()),
        }
    }
}

impl Numbers {
    fn parse(bytes: &[u8]) -> Option<Self> {
        // An array without elements has no dimension, and its head ends before the length.
        let elements = bytes.get(HEAD..).unwrap_or_default();
        let number = |element: &[u8]| {
            let (length, number) = element.split_first_chunk::<4>()?;
            (u32::from_be_bytes(*length) == 8).then_some(i64::from_be_bytes(number.try_into().ok()?))
        };
        elements.chunks(ELEMENT).map(number).collect::<Option<_>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_array_of_bigint_is_refused() {
        let head = [1, 0, 20, 2, 1].map(u32::to_be_bytes).concat();
        let element = |length: u32, number: i64| [&length.to_be_bytes()[..], &number.to_be_bytes()].concat();
        let array = |elements: &[Vec<u8>]| [head.clone(), elements.concat()].concat();
        let two = array(&[element(8, -3), element(8, i64::MAX)]);
        assert_eq!(Numbers::parse(&two), Some(Numbers(vec![-3, i64::MAX])));
        assert_eq!(Numbers::parse(&[0; 12]), Some(Numbers(Vec::new())), "no elements");
        assert_eq!(Numbers::parse(&two[..two.len() - 1]), None, "cut off");
        assert_eq!(Numbers::parse(&array(&[element(u32::MAX, 0)])), None, "a null");
        assert_eq!(Numbers::parse(&array(&[4u32.to_be_bytes().to_vec(), vec![0; 4]])), None, "smaller numbers");
    }
}
