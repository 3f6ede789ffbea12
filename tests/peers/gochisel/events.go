package main

import (
	"bufio"
	"encoding/json"
	"io"
	"sync"
	"time"
)

// facts are the fields of one event.
type facts map[string]any

// journal writes events as JSON lines. Safe for concurrent use; a nil journal drops everything.
type journal struct {
	mu      sync.Mutex
	out     *json.Encoder
	started time.Time
	quiet   map[string]bool
}

// newJournal writes to w and leaves out the events named by quiet.
func newJournal(w io.Writer, quiet ...string) *journal {
	j := &journal{out: json.NewEncoder(w), started: time.Now(), quiet: map[string]bool{}}
	for _, name := range quiet {
		j.quiet[name] = true
	}
	return j
}

// emit writes one event; "t" is the time in seconds since the program began.
func (j *journal) emit(event string, f facts) {
	if j == nil || j.quiet[event] {
		return
	}
	line := facts{"event": event, "t": time.Since(j.started).Round(time.Microsecond).Seconds()}
	for k, v := range f {
		line[k] = v
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	// A reader that has gone away shows as the end of standard input as well, and that ends the program.
	_ = j.out.Encode(line)
}

// order is one line on standard input: something to do now. Fields that an order does not need are ignored.
type order struct {
	Do        string
	Type      string
	Data      string
	WantReply bool
}

// follow calls obey for each order on r until r ends.
func follow(r io.Reader, j *journal, obey func(order)) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 4096), 1<<20)
	for lines.Scan() {
		var o order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			j.emit("error", facts{"stage": "order", "error": err.Error()})
			continue
		}
		obey(o)
	}
}
