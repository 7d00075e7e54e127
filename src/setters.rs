//! The setters of a configuration.

/// Generates a setter for each public field of a configuration, with the name of the field. The field has the docs.
///
/// `mut` in front of a field makes its setter a `fn` that is not `const`, for a type with a destructor; `into` one that takes
/// any value that converts into the type.
macro_rules! setters {
    () => {};
    (mut $field:ident: $type:ty, $($rest:tt)*) => {
        #[doc = concat!("Sets [`", stringify!($field), "`](#structfield.", stringify!($field), ").")]
        #[must_use]
        pub fn $field(mut self, $field: $type) -> Self {
            self.$field = $field;
            self
        }
        setters! { $($rest)* }
    };
    (into $field:ident: $type:ty, $($rest:tt)*) => {
        #[doc = concat!("Sets [`", stringify!($field), "`](#structfield.", stringify!($field), ").")]
        #[must_use]
        pub fn $field(mut self, $field: impl Into<$type>) -> Self {
            self.$field = $field.into();
            self
        }
        setters! { $($rest)* }
    };
    ($field:ident: $type:ty, $($rest:tt)*) => {
        #[doc = concat!("Sets [`", stringify!($field), "`](#structfield.", stringify!($field), ").")]
        #[must_use]
        pub const fn $field(mut self, $field: $type) -> Self {
            self.$field = $field;
            self
        }
        setters! { $($rest)* }
    };
}
