//go:build unix

package jetstream_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"fetchbench/fetch"
	"fetchbench/fetch/fetchtest"
	"fetchbench/fetch/jetstream"
)

// cluster starts three brokers that are one cluster.
func cluster(t *testing.T) []*server.Server {
	t.Helper()
	var routes []*url.URL
	var ports []int
	for range 3 {
		port := freePort(t)
		ports = append(ports, port)
		routes = append(routes, &url.URL{Scheme: "nats", Host: fmt.Sprint("127.0.0.1:", port)})
	}
	var nodes []*server.Server
	for i, port := range ports {
		s, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprintf("n%d", i),
			Host:       "127.0.0.1", Port: -1,
			Cluster: server.ClusterOpts{Name: "three", Host: "127.0.0.1", Port: port},
			Routes:  routes, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
		})
		require.NoError(t, err)
		s.Start()
		t.Cleanup(func() {
			s.Shutdown()
			s.WaitForShutdown()
		})
		nodes = append(nodes, s)
	}
	require.Eventually(t, func() bool {
		for _, s := range nodes {
			if s.JetStreamIsLeader() {
				return s.JetStreamClusterPeers() != nil && len(s.JetStreamClusterPeers()) == 3
			}
		}
		return false
	}, 20*time.Second, 10*time.Millisecond, "a leader")
	return nodes
}

// The broker that leads the streams is lost in the midst of a job: the other two go on.
func TestLeaderLost(t *testing.T) {
	pages := fetchtest.NewServer(t, fetchtest.Latency(2*time.Millisecond))
	nodes := cluster(t)
	var addresses []string
	for _, s := range nodes {
		addresses = append(addresses, s.ClientURL())
	}
	job := jetstream.Job{Name: "replicated", Address: strings.Join(addresses, ","), Replicas: 3}
	working(t, job, 2)
	f := fetch.Fetcher{Strategy: jetstream.Strategy{Job: job, ShardSize: 50, AckWait: time.Second}}
	lost := false
	complete(t, after(f.Fetch(t.Context(), urls(pages, 6000)), 1500, func() {
		for _, s := range nodes {
			if !lost && s.JetStreamIsStreamLeader("$G", "fetch-replicated-work") {
				lost = true
				go s.Shutdown() // the loop goes on meanwhile
			}
		}
	}), 6000)
	require.True(t, lost, "a broker led the stream")
}
