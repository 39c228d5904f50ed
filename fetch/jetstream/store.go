package jetstream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

// A Store keeps data by name: a manifest, or large bodies. [Dir] is one, and one over an object store is as short. Names are
// made of letters, digits, - and _, between slashes. Several goroutines, and machines, call its methods at once. They
// have to return soon after ctx is done.
type Store interface {
	// Put keeps data under name, in place of what was there. When it returns, data is there to stay, and
	// at no time does Get return a part of it. It must not keep or change the slice.
	Put(ctx context.Context, name string, data []byte) error
	// Get returns what is kept under name. If nothing is, errors.Is of the error and fs.ErrNotExist holds.
	Get(ctx context.Context, name string) ([]byte, error)
}

// put is store.Put, but for a panic in there, which is an error.
func put(ctx context.Context, store Store, name string, data []byte) (err error) {
	defer recovered(&err)
	return store.Put(ctx, name, data)
}

// get is store.Get, but for a panic in there, which is an error.
func get(ctx context.Context, store Store, name string) (data []byte, err error) {
	defer recovered(&err)
	return store.Get(ctx, name)
}

func recovered(err *error) {
	if v := recover(); v != nil {
		*err = fmt.Errorf("the Store panicked: %v", v)
	}
}

// Dir is a [Store] in the directory of that name, which is made when it is first needed. Workers on several machines need
// one that all of them see, such as a network file system. What is in there only its user may read (mode 0600, directories 0700):
// requests may have credentials.
type Dir string

// Put implements [Store]: into another file, which is synced to the disk and then renamed.
func (d Dir) Put(ctx context.Context, name string, data []byte) (err error) {
	path, err := d.path(ctx, name)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := mkdir(dir); err != nil {
		return err
	}
	temporary := path + "." + rand.Text()[:8] + ".tmp"
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(temporary)
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err == nil {
		err = syncDir(dir)
	}
	return err
}

// mkdir makes dir, and those above it, to stay.
func mkdir(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := mkdir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent)
}

// syncDir has the names in dir written to the disk, where the system can do that.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" || runtime.GOOS == "plan9" {
		return nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, syscall.EINVAL) { // some file systems have none
		return err
	}
	return nil
}

// Get implements [Store].
func (d Dir) Get(ctx context.Context, name string) ([]byte, error) {
	path, err := d.path(ctx, name)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

// path returns where name is kept. A name may have come over the network: it must not lead out of d.
func (d Dir) path(ctx context.Context, name string) (string, error) {
	if d == "" {
		return "", errors.New("jetstream: a Dir is empty: name a directory")
	}
	if !fs.ValidPath(name) || name == "." || !filepath.IsLocal(filepath.FromSlash(name)) {
		return "", fmt.Errorf("jetstream: '%s' is no name in a Store: %w", name, fs.ErrInvalid)
	}
	return filepath.Join(string(d), filepath.FromSlash(name)), ctx.Err()
}
