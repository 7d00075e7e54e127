//! The files of a crate and the paths in them, resolved to the files that define the items.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use syn::visit::{self, Visit};
use syn::{Attribute, Item, Meta, UseTree, Visibility};

/// A module path: the names below the crate's root.
type ModulePath = Vec<String>;

/// One file uses an item that another file defines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Dependency {
    pub(super) from: String,
    pub(super) to: String,
    /// The item as `from` names it.
    pub(super) path: String,
    /// In code that is compiled only for tests or for the documentation.
    pub(super) test: bool,
}

#[derive(Default)]
struct Module {
    file: String,
    /// The names of its items, modules and imports excepted.
    items: BTreeSet<String>,
    imports: BTreeMap<String, Vec<Written>>,
    globs: Vec<Written>,
    uses: Vec<Use>,
}

/// A path as it is written, without a leading `::`, which names another crate.
type Written = Vec<String>;

struct Use {
    path: Written,
    test: bool,
}

/// All modules of a crate.
#[derive(Default)]
pub(super) struct Crate {
    modules: BTreeMap<ModulePath, Module>,
}

impl Crate {
    /// Reads the crate whose root is `lib.rs` in this folder.
    pub(super) fn of_folder(root: &Path) -> Self {
        Self::read(&|file: &str| fs::read_to_string(root.join(file)).ok())
    }

    /// A crate of made-up files: names and texts.
    pub(super) fn of_texts(files: &[(&str, &str)]) -> Self {
        Self::read(&|file: &str| {
            let found = files.iter().find(|(name, _)| *name == file);
            found.map(|(_, text)| (*text).to_owned())
        })
    }

    fn read(source: &dyn Fn(&str) -> Option<String>) -> Self {
        let mut this = Self::default();
        this.read_file(source, Vec::new(), "lib.rs", false);
        this
    }

    fn read_file(
        &mut self,
        source: &dyn Fn(&str) -> Option<String>,
        path: ModulePath,
        file: &str,
        test: bool,
    ) {
        let text = source(file).unwrap_or_else(|| panic!("no file {file}"));
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        self.read_module(source, path, file, &parsed.items, test);
    }

    fn read_module(
        &mut self,
        source: &dyn Fn(&str) -> Option<String>,
        path: ModulePath,
        file: &str,
        items: &[Item],
        test: bool,
    ) {
        let mut module = Module {
            file: file.to_owned(),
            ..Module::default()
        };
        for item in items {
            if let Item::Mod(child) = item {
                let test = test || is_for_tests(&child.attrs);
                let mut child_path = path.clone();
                child_path.push(child.ident.to_string());
                if let Some((_, items)) = &child.content {
                    self.read_module(source, child_path, file, items, test);
                } else {
                    let found = child_files(file, &path, &child_path)
                        .into_iter()
                        .find(|name| source(name).is_some());
                    let found = found.unwrap_or_else(|| panic!("no file of {child_path:?}"));
                    self.read_file(source, child_path, &found, test);
                }
                continue;
            }
            if let Some(name) = name_of(item) {
                module.items.insert(name);
            }
            Reader {
                module: &mut module,
                test,
            }
            .visit_item(item);
        }
        self.modules.insert(path, module);
    }

    /// The files of all modules.
    pub(super) fn files(&self) -> BTreeSet<&str> {
        let modules = self.modules.values();
        modules.map(|module| &*module.file).collect()
    }

    /// Every use of an item that another file of the crate defines.
    pub(super) fn dependencies(&self) -> BTreeSet<Dependency> {
        let mut found = BTreeSet::new();
        for (path, module) in &self.modules {
            for used in &module.uses {
                let Some(to) = self.definition(path, &used.path, 0) else {
                    continue;
                };
                if to != module.file {
                    found.insert(Dependency {
                        from: module.file.clone(),
                        to,
                        path: used.path.join("::"),
                        test: used.test,
                    });
                }
            }
        }
        found
    }

    /// The file that defines the item of a path written in the module `at`.
    fn definition(&self, at: &ModulePath, path: &[String], depth: usize) -> Option<String> {
        // Two modules that import everything from each other.
        if depth > 16 {
            return None;
        }
        let mut at = at.clone();
        let mut rest = path;
        while let [first, further @ ..] = rest {
            match first.as_str() {
                "crate" => at.clear(),
                "self" => {}
                "super" => {
                    at.pop()?;
                }
                _ => break,
            }
            rest = further;
        }
        while let [name, further @ ..] = rest {
            let module = self.modules.get(&at)?;
            let mut child = at.clone();
            child.push(name.clone());
            let is_module = self.modules.contains_key(&child);
            if is_module && !further.is_empty() {
                at = child;
                rest = further;
                continue;
            }
            if module.items.contains(name) {
                return Some(module.file.clone());
            }
            for import in module.imports.get(name).into_iter().flatten() {
                // An import of a module or crate of its own name would lead back here.
                if import.first() == Some(name) {
                    continue;
                }
                let full: Vec<_> = import.iter().chain(further).cloned().collect();
                if let Some(found) = self.definition(&at, &full, depth + 1) {
                    return Some(found);
                }
            }
            if is_module {
                // The module itself, which its own uses follow.
                return None;
            }
            return module.globs.iter().find_map(|glob| {
                let full: Vec<_> = glob.iter().chain(rest).cloned().collect();
                self.definition(&at, &full, depth + 1)
            });
        }
        None
    }
}

/// Where the module may be that `file`, the module `path`, declares as `child`.
fn child_files(file: &str, path: &ModulePath, child: &ModulePath) -> [String; 2] {
    let is_folder = file == "lib.rs" || file.ends_with("mod.rs");
    let folder = match file.rsplit_once('/') {
        Some((folder, _)) if is_folder => format!("{folder}/"),
        None if is_folder => String::new(),
        _ => format!("{}/", path.join("/")),
    };
    let name = child.last().expect("a name");
    [
        format!("{folder}{name}.rs"),
        format!("{folder}{name}/mod.rs"),
    ]
}

/// `#[test]`, `#[cfg(test)]`, `#[cfg(all(test, …))]`, `#[cfg(doc)]`, `#[cfg(doctest)]`.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let condition = match &attribute.meta {
            Meta::List(list) if list.path.is_ident("cfg") => {
                list.tokens.to_string().replace(' ', "")
            }
            Meta::Path(path) => return path.is_ident("test"),
            _ => return false,
        };
        ["test", "doc", "doctest"].contains(&&*condition) || condition.starts_with("all(test,")
    })
}

/// The name that an item defines.
fn name_of(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}

/// Collects the imports and the paths of a module.
struct Reader<'a> {
    module: &'a mut Module,
    test: bool,
}

impl Reader<'_> {
    fn uses(&mut self, path: Written) {
        let test = self.test;
        self.module.uses.push(Use { path, test });
    }

    /// Reads with the attributes of a part of the code in force.
    fn within(&mut self, attributes: &[Attribute], read: impl FnOnce(&mut Self)) {
        let outside = self.test;
        self.test |= is_for_tests(attributes);
        read(self);
        self.test = outside;
    }

    fn import(&mut self, prefix: &[String], tree: &UseTree, is_reexport: bool) {
        let joined = |name: &syn::Ident| {
            let mut path = prefix.to_vec();
            path.push(name.to_string());
            path
        };
        let (path, name) = match tree {
            UseTree::Path(path) => {
                return self.import(&joined(&path.ident), &path.tree, is_reexport);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(prefix, tree, is_reexport);
                }
                return;
            }
            UseTree::Glob(_) => {
                if !is_reexport {
                    self.uses(prefix.to_vec());
                }
                return self.module.globs.push(prefix.to_vec());
            }
            UseTree::Name(name) if name.ident == "self" => {
                (prefix.to_vec(), prefix.last().cloned().unwrap_or_default())
            }
            UseTree::Name(name) => (joined(&name.ident), name.ident.to_string()),
            UseTree::Rename(rename) if rename.ident == "self" => {
                (prefix.to_vec(), rename.rename.to_string())
            }
            UseTree::Rename(rename) => (joined(&rename.ident), rename.rename.to_string()),
        };
        if !is_reexport {
            self.uses(path.clone());
        }
        self.module.imports.entry(name).or_default().push(path);
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes: &[Attribute] = match item {
            Item::Const(item) => &item.attrs,
            Item::Enum(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Macro(item) => &item.attrs,
            Item::Static(item) => &item.attrs,
            Item::Struct(item) => &item.attrs,
            Item::Trait(item) => &item.attrs,
            Item::Type(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            _ => &[],
        };
        self.within(attributes, |this| visit::visit_item(this, item));
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.within(&item.attrs, |this| visit::visit_impl_item_fn(this, item));
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        // A leading `::` names another crate.
        if item.leading_colon.is_none() {
            let is_reexport = !matches!(item.vis, Visibility::Inherited);
            self.import(&[], &item.tree, is_reexport);
        }
    }

    // `pub(in path)` uses nothing.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            let names = path.segments.iter();
            self.uses(names.map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        for path in paths_in(&call.tokens.to_string()) {
            self.uses(path);
        }
        visit::visit_macro(self, call);
    }
}

/// The paths in the tokens of a macro call, as the compiler prints them: spaces around every token.
fn paths_in(tokens: &str) -> Vec<Written> {
    let mut found: Vec<Written> = Vec::new();
    let mut continues = false;
    for token in without_literals(tokens).split_whitespace() {
        let is_name = token.starts_with(|first: char| first.is_alphabetic() || first == '_');
        if token == "::" {
            continues = true;
        } else {
            if is_name {
                match found.last_mut() {
                    Some(path) if continues => path.push(token.to_owned()),
                    _ => found.push(vec![token.to_owned()]),
                }
            } else {
                // Ends a path, so that the next name begins another.
                found.push(Vec::new());
            }
            continues = false;
        }
    }
    found.retain(|path| !path.is_empty());
    found
}

/// Separates punctuation by spaces and drops the contents of strings and characters.
fn without_literals(tokens: &str) -> String {
    let mut code = String::new();
    let mut rest = tokens.chars().peekable();
    while let Some(next) = rest.next() {
        match next {
            '"' => {
                while let Some(inside) = rest.next() {
                    match inside {
                        '\\' => drop(rest.next()),
                        '"' => break,
                        _ => {}
                    }
                }
                code.push_str(" \" ");
            }
            '\'' => {
                // A lifetime has no closing quote two characters further.
                let ahead: String = rest.clone().take(2).collect();
                if ahead.starts_with('\\') {
                    rest.next();
                    rest.next();
                    rest.find(|end| *end == '\'');
                } else if ahead.ends_with('\'') {
                    rest.nth(1);
                }
                code.push_str(" ' ");
            }
            ':' if rest.peek() == Some(&':') => {
                rest.next();
                code.push_str(" :: ");
            }
            _ if next.is_alphanumeric() || next == '_' => code.push(next),
            _ => {
                code.push(' ');
                if !next.is_whitespace() {
                    code.push(next);
                    code.push(' ');
                }
            }
        }
    }
    code
}
