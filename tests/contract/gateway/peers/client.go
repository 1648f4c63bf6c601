// Asks a gateway the way Go's net/http does, and prints what went wrong as JSON: client BASE TOKEN.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"sync"
	"time"
)

var base, token string
var client = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
	MaxIdleConnsPerHost: 100, ExpectContinueTimeout: 10 * time.Second, DisableCompression: true,
}}

type facts struct {
	Method string
	Size   int
	Crc    uint32
}

func request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	made, err := http.NewRequestWithContext(ctx, method, base+path, body)
	if err == nil {
		made.Header.Set("Authorization", "Bearer "+token)
	}
	return made, err
}

func echoed(made *http.Request, sent []byte) error {
	answer, err := client.Do(made)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	var told facts
	if err := json.NewDecoder(answer.Body).Decode(&told); err != nil {
		return err
	}
	io.Copy(io.Discard, answer.Body)
	if told.Size != len(sent) || told.Crc != crc32.ChecksumIEEE(sent) || answer.StatusCode != 200 {
		return fmt.Errorf("sent %d bytes, got %d and %+v", len(sent), answer.StatusCode, told)
	}
	return nil
}

func keepAlive() error {
	for i := 0; i < 50; i++ {
		reused := false
		trace := &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) { reused = got.Reused }}
		made, err := request(httptrace.WithClientTrace(context.Background(), trace), "GET", "/echo", nil)
		if err == nil {
			err = echoed(made, nil)
		}
		if err != nil {
			return err
		}
		if i > 0 && !reused {
			return fmt.Errorf("request %d came on a new connection", i)
		}
	}
	return nil
}

func upload(expect, chunked bool) func() error {
	return func() error {
		sent := bytes.Repeat([]byte("0123456789"), 100_000)
		var body io.Reader = bytes.NewReader(sent)
		if chunked {
			reader, writer := io.Pipe()
			go func() {
				for at := 0; at < len(sent); at += 77_777 {
					writer.Write(sent[at:min(at+77_777, len(sent))])
				}
				writer.Close()
			}()
			body = reader
		}
		made, err := request(context.Background(), "POST", "/echo", body)
		if err != nil {
			return err
		}
		if expect {
			made.Header.Set("Expect", "100-continue")
		}
		return echoed(made, sent)
	}
}

func head() error {
	made, err := request(context.Background(), "HEAD", "/echo", nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(made)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	rest, err := io.ReadAll(answer.Body)
	if err != nil || len(rest) > 0 || answer.StatusCode != 200 {
		return fmt.Errorf("%d, %d bytes, %v", answer.StatusCode, len(rest), err)
	}
	return nil
}

func events() error {
	made, err := request(context.Background(), "GET", "/events", nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(made)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	seen := 0
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "data: ") {
			seen++
		}
	}
	if seen != 20 {
		return fmt.Errorf("%d events of 20", seen)
	}
	return nil
}

func cancelled() error {
	ctx, cancel := context.WithCancel(context.Background())
	made, err := request(ctx, "GET", "/endless", nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(made)
	if err != nil {
		return err
	}
	io.ReadFull(answer.Body, make([]byte, 100))
	cancel()
	if _, err := io.ReadAll(answer.Body); err == nil {
		return fmt.Errorf("a cancelled answer ended as a whole one")
	}
	answer.Body.Close()
	return nil
}

func broken() error {
	made, err := request(context.Background(), "GET", "/broken", nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(made)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.ReadAll(answer.Body); err == nil {
		return fmt.Errorf("an answer that broke off was taken for a whole one")
	}
	return nil
}

func refused() error {
	made, err := http.NewRequest("POST", base+"/echo", bytes.NewReader(make([]byte, 100_000)))
	if err != nil {
		return err
	}
	answer, err := client.Do(made)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != 401 {
		return fmt.Errorf("%d without a key", answer.StatusCode)
	}
	return nil
}

func crowd() error {
	var all sync.WaitGroup
	errs := make(chan error, 100)
	for i := 0; i < 100; i++ {
		all.Add(1)
		go func(size int) {
			defer all.Done()
			sent := bytes.Repeat([]byte("x"), size*100)
			made, err := request(context.Background(), "PUT", "/echo", bytes.NewReader(sent))
			if err == nil {
				err = echoed(made, sent)
			}
			if err != nil {
				errs <- err
			}
		}(i)
	}
	all.Wait()
	close(errs)
	return <-errs
}

func main() {
	base, token = os.Args[1], os.Args[2]
	checks := map[string]func() error{
		"keep-alive": keepAlive, "upload": upload(false, false), "chunked upload": upload(false, true),
		"100-continue": upload(true, false), "head": head, "events": events, "cancelled": cancelled,
		"broken": broken, "refused": refused, "crowd": crowd,
	}
	told := map[string]string{}
	for name, check := range checks {
		told[name] = "ok"
		if err := check(); err != nil {
			told[name] = err.Error()
		}
	}
	json.NewEncoder(os.Stdout).Encode(told)
}
