package jetstream

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"
)

// A Job says which job it is about, and where its broker is. The [Strategy], its workers and [Status] have to agree
// on it. The zero value is a job that one process does by itself and that ends with the loop.
type Job struct {
	// Name tells this job from others at the same broker, or in the same Dir: up to 64 letters, digits, - and _. It
	// may be empty if Address and Dir are.
	Name string
	// Address is where the broker is: one URL or more, with commas between them, such as nats://host:4222, tls://host:4222
	// or wss://host:443, with user and password if it wants them. "" means a broker embedded in this process, which no
	// other process can reach.
	Address string
	// Credentials is the file with the user's JWT and key, if the broker wants one (NATS's tool nsc makes it).
	Credentials string
	// TLS is for a broker that wants a client's certificate, or has one that the system does not trust.
	TLS *tls.Config
	// Dir is where the embedded broker keeps its files. "" means a temporary directory, which is removed at the end of the
	// run: a job that is to be resumed needs a Dir.
	Dir string
	// Replicas is how many brokers of a cluster keep each message, 1 to 5: 3 of a cluster of three go on without
	// one of them. 0 means 1: messages are on one broker's disk. It is for the run that begins the job.
	Replicas int
	// Manifest is where the publisher writes down its shards, and their results as they come. What stands there is
	// not fetched again, whatever the broker has lost. What cannot be written down, in three attempts, is not fetched: that is an
	// ErrJob. nil means nowhere. Workers do not use it.
	Manifest Store
}

// check returns what is wrong with j, before any I/O.
func (j Job) check() error {
	switch {
	case j.Name == "" && j.Address != "":
		return errors.New("jetstream: Job.Name is empty: a job at a broker's Address needs one")
	case j.Name != "" && !isName(j.Name):
		return fmt.Errorf("jetstream: Job.Name may have up to 64 letters, digits, - and _: it is '%.80s'", j.Name)
	case j.Name == "" && j.Dir != "":
		return errors.New("jetstream: Job.Name is empty: a job with a Dir needs one, to be known when it is resumed")
	case j.Address == "" && (j.Credentials != "" || j.TLS != nil):
		return errors.New("jetstream: Job.Address is empty: the embedded broker has neither Credentials nor TLS")
	case j.Address == "" && j.Replicas > 1:
		return fmt.Errorf("jetstream: Job.Replicas is %d, and there is only the embedded broker: see Job.Address", j.Replicas)
	case j.Address != "" && j.Dir != "":
		return errors.New("jetstream: Job.Dir is for the embedded broker, and there is an Address")
	case j.Replicas < 0 || j.Replicas > 5:
		return fmt.Errorf("jetstream: Job.Replicas is %d: it may be 1 to 5", j.Replicas)
	}
	for _, one := range strings.Split(j.Address, ",") {
		u, err := url.Parse(strings.TrimSpace(one))
		if err != nil || j.Address != "" && (u.Host == "" || u.Scheme == "") {
			return errors.New("jetstream: Job.Address is not of the kind nats://host:4222") // and may have a password in it
		}
	}
	return nil
}

// where returns the address without secrets.
func (j Job) where() string {
	if j.Address == "" {
		return "the embedded broker"
	}
	var hosts []string
	for _, one := range strings.Split(j.Address, ",") {
		if u, err := url.Parse(strings.TrimSpace(one)); err == nil {
			hosts = append(hosts, u.Scheme+"://"+u.Host)
		}
	}
	return strings.Join(hosts, ",")
}

// String returns the name and the address, without secrets.
func (j Job) String() string { return j.name() + " at " + j.where() }

// explained returns err, with advice if the broker has no JetStream.
func explained(err error) error {
	if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, js.ErrJetStreamNotEnabled) {
		err = fmt.Errorf("%w: JetStream has to be enabled there (nats-server -js)", err)
	}
	return err
}

func isName(s string) bool {
	const letters = "-_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	return s != "" && len(s) <= 64 && strings.Trim(s, letters) == ""
}

// The names at the broker. A stream has what its subjects get; control and publisher are no streams', but
// go from those who are there to those who are there.
func (j Job) name() string {
	if j.Name == "" {
		return "job"
	}
	return j.Name
}
func (j Job) workStream() string   { return "fetch-" + j.name() + "-work" }
func (j Job) resultStream() string { return "fetch-" + j.name() + "-results" }
func (j Job) subject(tokens ...string) string {
	return "fetch." + j.name() + "." + strings.Join(tokens, ".")
}
