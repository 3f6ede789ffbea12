package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// runChange writes one pod after the other anew, at a steady rate, past the API server: writing through it costs it so
// much that on a small machine nothing is left for its watches, which are what is to be loaded. To them it is a change
// like any other: the object has a new version.
func runChange(args []string) error {
	flags, _ := flagsFor("change")
	etcd := flags.String("etcd", "http://127.0.0.1:2379", "the etcd below the API server")
	pods := flags.Int("pods", 30000, "how many there are")
	rate := flags.Int("rate", 1000, "changes a second")
	duration := flags.Duration("for", time.Minute, "how long")
	if err := flags.Parse(args); err != nil {
		return err
	}
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = connections
	began := time.Now()
	count := int(float64(*rate) * duration.Seconds())
	err := each(count, func(_, n int) error {
		time.Sleep(time.Until(began.Add(time.Duration(n) * time.Second / time.Duration(*rate))))
		return rewrite(*etcd, fmt.Sprintf("/registry/pods/%s/%s", namespaceOf(n%*pods), podName(n%*pods)))
	})
	if err != nil {
		return err
	}
	say("done", map[string]any{"changes": count, "seconds": time.Since(began).Seconds()})
	return nil
}

// rewrite puts what is there once more.
func rewrite(etcd, key string) error {
	encoded := base64.StdEncoding.EncodeToString([]byte(key))
	var found struct {
		KVs []struct{ Value string }
	}
	if err := ask(etcd+"/v3/kv/range", map[string]string{"key": encoded}, &found); err != nil {
		return err
	}
	if len(found.KVs) != 1 {
		return fmt.Errorf("%s is not there", key)
	}
	return ask(etcd+"/v3/kv/put", map[string]string{"key": encoded, "value": found.KVs[0].Value}, &struct{}{})
}

// ask makes one call to etcd's JSON gateway.
func ask(url string, body map[string]string, into any) error {
	given, err := json.Marshal(body)
	if err != nil {
		return err
	}
	answer, err := http.Post(url, "application/json", bytes.NewReader(given))
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	said, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", url, answer.Status, said)
	}
	return json.Unmarshal(said, into)
}
