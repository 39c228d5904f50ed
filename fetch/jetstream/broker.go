package jetstream

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/nats-io/nats-server/v2/server"
)

// brokers are the embedded brokers that are running in this process, and can be asked for by name.
var brokers struct {
	sync.Mutex
	of map[brokerKey]*broker
}

type brokerKey struct{ name, dir string }

func (j Job) key() brokerKey { return brokerKey{j.Name, j.Dir} }

// A broker is a nats-server in this process, for one job. Nothing listens: connections to it are pipes.
type broker struct {
	*server.Server
	job  Job
	temp string // to be removed with it
	lock *os.File
}

// startBroker starts the broker of a job that has no Address.
func startBroker(j Job) (*broker, error) {
	b := &broker{job: j}
	if j.Name != "" {
		brokers.Lock()
		defer brokers.Unlock()
		if brokers.of[j.key()] != nil {
			return nil, errors.New("jetstream: this job is running in this process")
		}
	}
	dir, err := j.Dir, error(nil)
	if dir == "" {
		dir, err = os.MkdirTemp("", "fetch-jetstream-")
		b.temp = dir
	} else if err = os.MkdirAll(dir, 0o700); err == nil {
		b.lock, err = lockFile(filepath.Join(dir, "lock"))
	}
	if err != nil {
		return nil, fmt.Errorf("jetstream: the embedded broker's directory: %w", err)
	}
	b.Server, err = server.NewServer(&server.Options{
		ServerName:        "fetch",
		DontListen:        true,
		JetStream:         true,
		JetStreamMaxStore: 1 << 60, // not three quarters of the free space, which MaxBytes would be reserved of
		StoreDir:          dir,
		MaxPayload:        4 << 20,
		NoSigs:            true,
		NoLog:             true,
		NoSystemAccount:   true,
	})
	if err == nil {
		b.Start() // it is ready then, since nothing listens
		if !b.JetStreamEnabled() {
			err = fmt.Errorf("it cannot use %s", dir)
		}
	}
	if err != nil {
		b.stop()
		return nil, fmt.Errorf("jetstream: the embedded broker does not start: %w", err)
	}
	if j.Name != "" {
		if brokers.of == nil {
			brokers.of = make(map[brokerKey]*broker)
		}
		brokers.of[j.key()] = b
	}
	return b, nil
}

// embeddedBroker returns the broker of j that is running in this process, or nil.
func embeddedBroker(j Job) *broker {
	brokers.Lock()
	defer brokers.Unlock()
	return brokers.of[j.key()]
}

// stop ends b, and removes what is nobody's any more.
func (b *broker) stop() {
	if b.Server != nil {
		b.Shutdown()
		b.WaitForShutdown()
	}
	if b.temp != "" {
		os.RemoveAll(b.temp)
	} else { // nats-server removes streams that are deleted by and by, and not if it ends before
		streams, _ := fs.Glob(os.DirFS(b.job.Dir), "jetstream/*/streams/.fetch-*")
		for _, deleted := range streams {
			os.RemoveAll(filepath.Join(b.job.Dir, deleted))
		}
	}
	if b.lock != nil {
		b.lock.Close()
	}
}

// forget makes b unknown to others. It comes before stop.
func (b *broker) forget() {
	brokers.Lock()
	defer brokers.Unlock()
	if brokers.of[b.job.key()] == b {
		delete(brokers.of, b.job.key())
	}
}
