package jetstream

import "errors"

// ErrJob is in the error of a result, and errors.Is finds it, if the job as a whole cannot go on: its broker is away or refuses it,
// another process runs it, its fields are no good. No more input is taken then, and the loop ends after the results of what had
// been taken. What the broker and the manifest have stays there: make the same call again when the cause is gone.
var ErrJob = errors.New("the job cannot go on")

// ErrNoJob says that the broker has no such job: it has not begun, or it has ended.
var ErrNoJob = errors.New("no such job")

// A StoredError is in the error of a result whose body is in the Bodies of its [Worker], where the Strategy has no
// Bodies to get it from. All else that the Result says holds.
type StoredError struct {
	Name string // of the body in the Store
}

func (e *StoredError) Error() string {
	return "the worker has put the body into its Store, and Strategy.Bodies is nil: it is there as " + e.Name
}

// A jobError is an ErrJob.
type jobError struct{ error }

func (e jobError) Is(target error) bool { return target == ErrJob }
func (e jobError) Unwrap() error        { return e.error }
