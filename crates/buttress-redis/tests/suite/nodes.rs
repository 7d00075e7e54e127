//! A private Redis Cluster for a test.

use redis::aio::MultiplexedConnection;

use super::private::{Private, free_ports};

const SLOTS: u32 = 16_384;

/// Primaries that share the slots evenly, and replicas of the first ones.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
}

pub(crate) struct Node {
    pub(crate) server: Private,
    pub(crate) port: u16,
    pub(crate) id: String,
}

impl Node {
    fn start(settings: &[&str]) -> Self {
        let [port, bus] = free_ports();
        let own = [
            "cluster-enabled yes",
            "cluster-node-timeout 1000",
            "repl-diskless-sync-delay 0",
            "bind 127.0.0.1",
            &format!("port {port}"),
            &format!("cluster-port {bus}"),
        ];
        let server = Private::start(&[&own, settings].concat());
        let id = String::new();
        Self { server, port, id }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A command to this node, whatever the slot.
    pub(crate) async fn ask<T: redis::FromRedisValue>(&self, words: &str) -> T {
        let mut connection: MultiplexedConnection = self.server.connection().await;
        let mut words = words.split(' ');
        let mut command = redis::cmd(words.next().expect("a command"));
        for word in words {
            command.arg(word);
        }
        let response = command.query_async(&mut connection).await;
        response.unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }
}

impl Cluster {
    /// Replica number `n` is of primary number `n`.
    pub(crate) async fn start(primaries: u32, replicas: usize, settings: &[&str]) -> Self {
        let count = usize::try_from(primaries).expect("a few") + replicas;
        let mut nodes: Vec<Node> = (0..count).map(|_| Node::start(settings)).collect();
        for node in &mut nodes {
            node.id = node.ask("CLUSTER MYID").await;
        }
        for (number, node) in (0..primaries).zip(&nodes) {
            let first = SLOTS * number / primaries;
            let last = SLOTS * (number + 1) / primaries - 1;
            let () = node
                .ask(&format!("CLUSTER ADDSLOTSRANGE {first} {last}"))
                .await;
            // With equal epochs two nodes would have to agree on new ones first.
            let () = node
                .ask(&format!("CLUSTER SET-CONFIG-EPOCH {}", number + 1))
                .await;
        }
        for node in &nodes[1..] {
            let bus: Vec<String> = nodes[0].ask("CONFIG GET cluster-port").await;
            let meet = format!("CLUSTER MEET 127.0.0.1 {} {}", nodes[0].port, bus[1]);
            let () = node.ask(&meet).await;
        }
        let cluster = Self { nodes };
        cluster
            .settle(&format!("cluster_known_nodes:{count}"))
            .await;
        for (replica, primary) in cluster.replicas(primaries).iter().zip(&cluster.nodes) {
            let () = replica
                .ask(&format!("CLUSTER REPLICATE {}", primary.id))
                .await;
        }
        cluster.settle("cluster_state:ok").await;
        cluster.replicate(replicas).await;
        cluster
    }

    fn replicas(&self, primaries: u32) -> &[Node] {
        &self.nodes[usize::try_from(primaries).expect("a few")..]
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Node::url).collect()
    }

    /// Waits until every node reports this line.
    pub(crate) async fn settle(&self, text: &str) {
        for node in &self.nodes {
            for turn in 0.. {
                let info: String = node.ask("CLUSTER INFO").await;
                if info.lines().any(|line| line == text) {
                    break;
                }
                assert!(turn < 600, "no `{text}` in 30 s: {info}");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }

    /// Waits until the replicas follow.
    async fn replicate(&self, replicas: usize) {
        for primary in &self.nodes[..replicas] {
            for turn in 0.. {
                let info: String = primary.ask("INFO replication").await;
                if info.contains("state=online") {
                    break;
                }
                assert!(turn < 600, "no replica in 30 s: {info}");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}
