package applications

import (
	"context"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/preflight-go/preflight/interop/internal/lab"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// TestDriverRedisCluster uses a cluster behind an edge. A client must reach each node,
// because a node serves only its own slots, and redirects to the node of another slot.
// Therefore each node has a path at the edge, and the dial function selects the path by the
// address that it is given. A dial function that ignores the address reaches one node only.
func TestDriverRedisCluster(t *testing.T) {
	nodes := startRedisCluster(t)
	edge, paths := startClusterEdge(t, nodes)
	for name, f := range map[string]lab.Frontend{"nginx": edge.Plain, "nginx-tls": edge.TLS} {
		t.Run(name, func(t *testing.T) {
			t.Run("AnyAddress", func(t *testing.T) {
				c := redisCluster(t, nodes[0].address, func(ctx context.Context, network, _ string) (net.Conn, error) {
					d := f.Dialer()
					d.Path = paths[nodes[0].address]
					return d.DialContext(ctx, network, f.Address)
				})
				require.NoError(t, c.Set(t.Context(), nodes[0].key, "value", 0).Err())
				for _, n := range nodes[1:] {
					require.ErrorContains(t, c.Set(t.Context(), n.key, "value", 0).Err(), "MOVED ")
				}
			})
			t.Run("PathForEachNode", func(t *testing.T) {
				dialed := newNameSet()
				base := f.Dialer()
				dial := func(ctx context.Context, network, node string) (net.Conn, error) {
					path, ok := paths[node]
					if !ok {
						return nil, fmt.Errorf("the node %s has no path at the edge", node)
					}
					dialed.add(node)
					d := *base
					d.Path = path
					return d.DialContext(ctx, network, f.Address)
				}
				c := redisCluster(t, nodes[0].address, dial)
				for _, n := range nodes {
					require.NoError(t, c.Set(t.Context(), n.key, n.address, 0).Err())
				}
				require.ElementsMatch(t, slices.Collect(maps.Keys(paths)), dialed.names())
				for _, n := range nodes {
					// Read from the node itself, without the edge.
					got, err := n.client.Get(t.Context(), n.key).Result()
					require.NoError(t, err)
					require.Equal(t, n.address, got)
				}
				testRedisMoved(t, c, nodes)
			})
		})
	}
}

// testRedisMoved moves a slot that the client has used to another node.
func testRedisMoved(t *testing.T, c *redis.ClusterClient, nodes []redisNode) {
	from, to := nodes[0], nodes[1]
	slot, err := from.client.ClusterKeySlot(t.Context(), from.key).Result()
	require.NoError(t, err)
	require.NoError(t, c.Del(t.Context(), from.key).Err()) // an empty slot needs no migration
	set := func(at redisNode, state string, n redisNode) {
		require.NoError(t, at.client.Do(t.Context(), "CLUSTER", "SETSLOT", slot, state, n.id).Err())
	}
	move := func(from, to redisNode) {
		set(to, "IMPORTING", from)
		set(from, "MIGRATING", to)
		for _, at := range []redisNode{to, from, nodes[2]} {
			set(at, "NODE", to)
		}
	}
	move(from, to)
	require.NoError(t, c.Set(t.Context(), from.key, "moved", 0).Err())
	got, err := to.client.Get(t.Context(), from.key).Result()
	require.NoError(t, err)
	require.Equal(t, "moved", got)

	require.NoError(t, c.Del(t.Context(), from.key).Err())
	move(to, from)
	require.NoError(t, c.Set(t.Context(), from.key, "back", 0).Err())
}

// A redisNode is a node of a cluster. key is a key in one of its slots.
type redisNode struct {
	address, bus, id string
	client           *redis.Client // without an edge
	key              string
}

// startRedisCluster runs three nodes, each with a third of the slots.
func startRedisCluster(t *testing.T) []redisNode {
	t.Helper()
	const slots = 16384
	nodes := make([]redisNode, 3)
	for i := range nodes {
		dir := t.TempDir()
		socket := filepath.Join(dir, "s")
		d := lab.StartDaemon(t, dir, 2, func(addresses []string) (command []string) {
			return []string{
				"redis-server", "--bind", "127.0.0.1", "--port", lab.Port(addresses[0]), "--unixsocket", socket, "--dir", dir,
				"--save", "", "--appendonly", "no", "--cluster-enabled", "yes", "--cluster-port", lab.Port(addresses[1]),
			}
		}, func() bool { return lab.AcceptUnix(socket) })
		client := redis.NewClient(&redis.Options{Addr: d.Addresses[0]})
		t.Cleanup(func() { client.Close() })
		id, err := client.ClusterMyID(t.Context()).Result()
		require.NoError(t, err)
		nodes[i] = redisNode{d.Addresses[0], d.Addresses[1], id, client, []string{"hello", "c", "foo"}[i]}
		first, last := i*slots/len(nodes), (i+1)*slots/len(nodes)-1
		require.NoError(t, client.ClusterAddSlotsRange(t.Context(), first, last).Err())
		// With equal epochs, two nodes could disagree about the slots.
		require.NoError(t, client.Do(t.Context(), "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err())
	}
	for _, n := range nodes[1:] {
		require.NoError(t, n.client.Do(t.Context(), "CLUSTER", "MEET", "127.0.0.1", lab.Port(nodes[0].address), lab.Port(nodes[0].bus)).Err())
	}
	for _, n := range nodes {
		lab.WaitUntil(t, "the cluster is complete", func() bool {
			info, err := n.client.ClusterInfo(t.Context()).Result()
			require.NoError(t, err)
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3")
		})
	}
	return nodes
}

// startClusterEdge runs nginx in front of the nodes. paths has the path of each node, by its
// address.
func startClusterEdge(t *testing.T, nodes []redisNode) (edge *lab.Edge, paths map[string]string) {
	t.Helper()
	paths = make(map[string]string)
	var routes strings.Builder
	for i, n := range nodes {
		paths[n.address] = fmt.Sprintf("/client/redis-%d", i)
		fmt.Fprintf(&routes, "%s %s;\n", paths[n.address], startRelay(t, n.address).address)
	}
	edge = lab.StartNginx(t, "127.0.0.1:1",
		"upstream preflight_client {", "map $uri $node {\n"+routes.String()+"}\nupstream preflight_client {",
		"proxy_pass http://preflight_client/;", "proxy_pass http://$node;")
	return edge, paths
}

// redisCluster returns a client that knows one node, and learns the others from it.
func redisCluster(t *testing.T, node string, dial func(ctx context.Context, network, address string) (net.Conn, error)) *redis.ClusterClient {
	t.Helper()
	c := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{node}, Dialer: dial})
	t.Cleanup(func() { c.Close() })
	return c
}

// A nameSet is a set of names.
type nameSet struct {
	mu  sync.Mutex
	all map[string]bool
}

func newNameSet() *nameSet { return &nameSet{all: make(map[string]bool)} }

func (s *nameSet) add(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[name] = true
}

func (s *nameSet) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.all))
}
