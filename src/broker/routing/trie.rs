//! Topic patterns with wildcards, as a tree of words.

use std::hash::{Hash, Hasher, RandomState};

use hashbrown::{Equivalent, HashMap, HashSet};

use super::{Removed, values::Values, words};

/// A node's place in [`Trie::nodes`].
pub(super) type NodeId = u32;

const ROOT: NodeId = 0;

/// Patterns as paths of words from a root, with `*` and `#` as words of their own.
///
/// Nodes lie in one vector and name each other by number, and all edges in one map: building,
/// matching and dropping never recurse, however long a client's pattern is.
///
/// Matching walks the key's words once and keeps the set of nodes that the words so far can have
/// led to. A `#` node, once in that set, stays (it takes any further word), so that the work for
/// a word is bounded by the number of nodes and `#.#.#.a` costs no more than it has words.
#[derive(Debug)]
pub(super) struct Trie<T> {
    nodes: Vec<Node<T>>,
    edges: HashMap<Edge, NodeId, RandomState>,
    free: Vec<NodeId>,
    patterns: usize,
}

#[derive(Debug)]
struct Node<T> {
    parent: NodeId,
    /// Nodes below this one, over all edges.
    children: u32,
    /// The node for `*` below this one. Stands here, and not among the edges, as `any` does,
    /// since every word of a key asks for it.
    one: Option<NodeId>,
    /// The node for `#` below this one.
    any: Option<NodeId>,
    /// True for a node of `#`.
    is_any: bool,
    /// `None` if no pattern ends here.
    values: Option<Values<T>>,
}

impl<T> Node<T> {
    const fn below(parent: NodeId, is_any: bool) -> Self {
        Self {
            parent,
            children: 0,
            one: None,
            any: None,
            is_any,
            values: None,
        }
    }
}

/// An edge from a node by a plain word.
#[derive(Debug)]
struct Edge {
    from: NodeId,
    word: Box<str>,
}

/// An [`Edge`] to look for.
struct EdgeRef<'a> {
    from: NodeId,
    word: &'a str,
}

impl Edge {
    fn borrow(&self) -> EdgeRef<'_> {
        EdgeRef {
            from: self.from,
            word: &self.word,
        }
    }
}

impl Hash for EdgeRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.from.hash(state);
        self.word.hash(state);
    }
}

impl Hash for Edge {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.borrow().hash(state);
    }
}

impl PartialEq for Edge {
    fn eq(&self, other: &Self) -> bool {
        self.from == other.from && self.word == other.word
    }
}

impl Eq for Edge {}

impl Equivalent<Edge> for EdgeRef<'_> {
    fn equivalent(&self, edge: &Edge) -> bool {
        self.from == edge.from && *self.word == *edge.word
    }
}

impl<T> Trie<T> {
    pub(super) fn new() -> Self {
        Self {
            nodes: vec![Node::below(ROOT, false)],
            edges: HashMap::default(),
            free: Vec::new(),
            patterns: 0,
        }
    }

    /// How many patterns there are.
    pub(super) const fn len(&self) -> usize {
        self.patterns
    }

    #[cfg(test)]
    pub(super) fn live_nodes(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    fn get(&self, node: NodeId) -> Option<&Node<T>> {
        self.nodes.get(node as usize)
    }

    fn get_mut(&mut self, node: NodeId) -> Option<&mut Node<T>> {
        self.nodes.get_mut(node as usize)
    }

    fn plain_child(&self, from: NodeId, word: &str) -> Option<NodeId> {
        self.edges.get(&EdgeRef { from, word }).copied()
    }

    fn child(&self, from: NodeId, word: &str) -> Option<NodeId> {
        match word {
            "*" => self.get(from)?.one,
            "#" => self.get(from)?.any,
            word => self.plain_child(from, word),
        }
    }

    /// The node where a pattern ends, if its path exists.
    pub(super) fn node(&self, pattern: &str) -> Option<NodeId> {
        words(pattern).try_fold(ROOT, |node, word| self.child(node, word))
    }

    /// The nodes in which patterns that match the key end, each once.
    pub(super) fn find(&self, key: &str) -> Vec<NodeId> {
        let mut found = Vec::new();
        if self.patterns == 0 {
            return found;
        }
        // Nodes reached by exactly the words so far; a node has one way in, so none comes twice.
        let mut at = Vec::new();
        let mut next = Vec::new();
        // The `#` nodes reached: each is a place from which every further word starts anew.
        let mut staying = Vec::new();
        let mut seen = HashSet::new();
        self.reach(ROOT, &mut at, &mut staying, &mut seen);
        for word in words(key) {
            let reached: Vec<NodeId> = at
                .iter()
                .chain(&staying)
                .flat_map(|&node| {
                    let one = self.get(node).and_then(|node| node.one);
                    [one, self.plain_child(node, word)].into_iter().flatten()
                })
                .collect();
            for node in reached {
                self.reach(node, &mut next, &mut staying, &mut seen);
            }
            std::mem::swap(&mut at, &mut next);
            next.clear();
        }
        found.extend(
            at.into_iter()
                .chain(staying)
                .filter(|&node| self.get(node).is_some_and(|node| node.values.is_some())),
        );
        found
    }

    /// Adds a node, and every `#` below it that may stand for no word.
    fn reach(
        &self,
        node: NodeId,
        at: &mut Vec<NodeId>,
        staying: &mut Vec<NodeId>,
        seen: &mut HashSet<NodeId>,
    ) {
        at.push(node);
        let mut below = self.get(node).and_then(|node| node.any);
        while let Some(any) = below {
            if !seen.insert(any) {
                break;
            }
            staying.push(any);
            below = self.get(any).and_then(|node| node.any);
        }
    }
}

impl<T: Eq + Hash> Trie<T> {
    /// The values of the pattern that ends in a node.
    pub(super) fn values(&self, node: NodeId) -> impl Iterator<Item = &T> {
        self.get(node)
            .and_then(|node| node.values.as_ref())
            .into_iter()
            .flat_map(Values::iter)
    }

    /// Gives the pattern one more value, unless it has it. Returns true if the pattern is new.
    pub(super) fn insert(&mut self, pattern: &str, value: T) -> bool {
        let node = words(pattern).fold(ROOT, |node, word| {
            self.child(node, word)
                .unwrap_or_else(|| self.grow(node, word))
        });
        let Some(place) = self.get_mut(node).map(|node| &mut node.values) else {
            return false;
        };
        match place {
            Some(values) => {
                values.insert(value);
                false
            }
            None => {
                *place = Some(Values::One(value));
                self.patterns = self.patterns.saturating_add(1);
                true
            }
        }
    }

    fn grow(&mut self, from: NodeId, word: &str) -> NodeId {
        let fresh = Node::below(from, word == "#");
        let node = match self.free.pop() {
            Some(node) => {
                if let Some(place) = self.get_mut(node) {
                    *place = fresh;
                }
                node
            }
            None => {
                // Four thousand million nodes do not fit into a machine's memory.
                let node = NodeId::try_from(self.nodes.len()).unwrap_or(ROOT);
                self.nodes.push(fresh);
                node
            }
        };
        if let Some(parent) = self.get_mut(from) {
            parent.children = parent.children.saturating_add(1);
            match word {
                "*" => parent.one = Some(node),
                "#" => parent.any = Some(node),
                word => {
                    let word = word.into();
                    self.edges.insert(Edge { from, word }, node);
                }
            }
        }
        node
    }

    /// Takes a value from a pattern.
    pub(super) fn remove(&mut self, pattern: &str, value: &T) -> Removed {
        let Some(node) = self.node(pattern) else {
            return Removed::Absent;
        };
        let Some(place) = self.get_mut(node).map(|node| &mut node.values) else {
            return Removed::Absent;
        };
        let removed = place
            .as_mut()
            .map_or(Removed::Absent, |values| values.remove(value));
        if removed == Removed::Last {
            *place = None;
            self.patterns = self.patterns.saturating_sub(1);
            if self.patterns == 0 {
                *self = Self::new();
            } else {
                self.prune(pattern, node);
            }
        }
        removed
    }

    /// Removes the end of a path, as far up as nothing else needs it.
    fn prune(&mut self, pattern: &str, mut node: NodeId) {
        let path: Vec<&str> = words(pattern).collect();
        for word in path.into_iter().rev() {
            let Some(parent) = self.get(node).and_then(|node| {
                (node.children == 0 && node.values.is_none()).then_some(node.parent)
            }) else {
                return;
            };
            if let Some(above) = self.get_mut(parent) {
                above.children = above.children.saturating_sub(1);
                match word {
                    "*" => above.one = None,
                    "#" => above.any = None,
                    word => {
                        self.edges.remove(&EdgeRef { from: parent, word });
                    }
                }
            }
            self.free.push(node);
            node = parent;
        }
    }

    /// All patterns, in no order. Not for the path of a message: it rebuilds each from its words.
    pub(super) fn patterns(&self) -> impl Iterator<Item = Box<str>> {
        let names: HashMap<NodeId, &str> = self
            .edges
            .iter()
            .map(|(edge, &node)| (node, &*edge.word))
            .collect();
        (0..).zip(&self.nodes).filter_map(move |(id, node)| {
            node.values.as_ref()?;
            let mut path = Vec::new();
            let mut at: NodeId = id;
            while at != ROOT {
                let node = self.get(at)?;
                path.push(
                    names
                        .get(&at)
                        .copied()
                        .unwrap_or(if node.is_any { "#" } else { "*" }),
                );
                at = node.parent;
            }
            path.reverse();
            Some(path.join(".").into())
        })
    }
}
