package process

import (
	"fmt"
	"os"
	"strings"
)

func init() {
	stopsOrphans = true
	ended = func(pid int) bool { // it may be a zombie, if process 1 does not reap
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return true
		}
		_, state, _ := strings.Cut(string(stat), ") ")
		return state[0] == 'Z' || state[0] == 'X'
	}
}
