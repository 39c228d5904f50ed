package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// A repo is a git repository, by the root of its tree.
type repo struct{ root string }

func openRepo(ctx context.Context) (*repo, error) {
	r := &repo{}
	root, err := r.git(ctx, nil, "rev-parse", "--show-toplevel")
	r.root = root
	return r, err
}

// git runs git, with env in addition and without the user's hooks, and returns what it prints.
func (r *repo) git(ctx context.Context, env []string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "core.hooksPath=" + os.DevNull}, args...)...)
	cmd.Dir = r.root
	cmd.Env = append(environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %s", args[0], cmp.Or(strings.TrimSpace(stderr.String()), err.Error()))
	}
	return strings.TrimSpace(string(out)), nil
}

// environ is the environment without what a hook of git has in it, such as the name of the user's index.
func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains([]string{"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY"}, name)
	})
}

// commit returns the hash of the commit that rev names.
func (r *repo) commit(ctx context.Context, rev string) (string, error) {
	if strings.HasPrefix(rev, "-") {
		return "", fmt.Errorf("%q is no revision", rev)
	}
	hash, err := r.git(ctx, nil, "rev-parse", "--verify", "--quiet", rev+"^{commit}")
	if err != nil {
		return "", fmt.Errorf("there is no commit %q", rev)
	}
	return hash, nil
}

// workingTree returns a commit of all that is in the working tree, but for what git ignores. It is made
// with an index of its own, and no branch leads to it.
func (r *repo) workingTree(ctx context.Context, dir string) (commit string, changed bool, err error) {
	head, err := r.commit(ctx, "HEAD")
	if err != nil {
		return "", false, errors.New("the repository has no commit yet")
	}
	env := []string{"GIT_INDEX_FILE=" + filepath.Join(dir, "index")}
	for _, name := range []string{"AUTHOR", "COMMITTER"} {
		env = append(env, "GIT_"+name+"_NAME=regress", "GIT_"+name+"_EMAIL=regress@localhost", "GIT_"+name+"_DATE=@0 +0000")
	}
	if _, err := r.git(ctx, env, "read-tree", "HEAD"); err != nil {
		return "", false, err
	}
	if _, err := r.git(ctx, env, "add", "--all"); err != nil {
		return "", false, err
	}
	tree, err := r.git(ctx, env, "write-tree")
	if err != nil {
		return "", false, err
	}
	if before, err := r.git(ctx, nil, "rev-parse", "HEAD^{tree}"); err != nil || before == tree {
		return head, false, err
	}
	commit, err = r.git(ctx, env, "commit-tree", tree, "-p", head, "-m", "the working tree")
	return commit, true, err
}

// base returns the commit that head, or what has changed since, is compared with by default: the merge base with
// main; if head is on main itself, its parent, or head if something has changed.
func (r *repo) base(ctx context.Context, head string, changed bool) (string, error) {
	for _, main := range []string{"main", "origin/main", "master", "origin/master"} {
		if _, err := r.commit(ctx, main); err != nil {
			continue
		}
		base, err := r.git(ctx, nil, "merge-base", head, main)
		if err != nil {
			return "", fmt.Errorf("no commit is common to %s and this one: say which is BASE", main)
		}
		if base != head || changed {
			return base, nil
		}
		break
	}
	parent, err := r.commit(ctx, head+"^")
	if err != nil {
		return "", errors.New("there is no commit before this one: say which is BASE")
	}
	return parent, nil
}

// checkOut makes a worktree of commit in dir. The caller has to remove it by the function that is returned, which
// works after ctx is done too.
func (r *repo) checkOut(ctx context.Context, dir, commit string) (remove func(), err error) {
	remove = func() {
		ctx := context.WithoutCancel(ctx)
		r.git(ctx, nil, "worktree", "remove", "--force", dir)
		os.RemoveAll(dir)
		r.git(ctx, nil, "worktree", "prune")
	}
	if _, err := r.git(ctx, nil, "worktree", "add", "--detach", "--force", dir, commit); err != nil {
		remove()
		return nil, err
	}
	return remove, nil
}

// tempDir makes a directory for worktrees. It removes those of runs that have been killed.
func (r *repo) tempDir(ctx context.Context) (string, error) {
	list, err := r.git(ctx, nil, "worktree", "list", "--porcelain")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(list) {
		tree, ok := strings.CutPrefix(strings.TrimSpace(line), "worktree ")
		dir := filepath.Dir(filepath.FromSlash(tree))
		var pid, random int
		if n, _ := fmt.Sscanf(filepath.Base(dir), "regress-%d-%d", &pid, &random); !ok || n != 2 || isAlive(pid) {
			continue
		}
		r.git(ctx, nil, "worktree", "remove", "--force", tree)
		os.RemoveAll(dir)
	}
	return os.MkdirTemp("", fmt.Sprintf("regress-%d-", os.Getpid()))
}

// isAlive reports whether there may be a process of that number.
func isAlive(pid int) bool {
	p, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	err = p.Signal(syscall.Signal(0))
	return !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, syscall.ESRCH)
}
