package check

// A Report is the result of a check.
type Report struct {
	URL         string       `json:"url"`
	Works       bool         `json:"works"` // a client can open a tunnel
	Carrier     string       `json:"carrier,omitempty"`
	Way         []string     `json:"way,omitempty"` // the products that were seen, the first hop first
	Steps       []Step       `json:"steps"`
	Certificate *Certificate `json:"certificate,omitempty"`
	Questions   []*Answer    `json:"questions,omitempty"`
	FarEnd      *FarView     `json:"far_end,omitempty"`
	Findings    []Finding    `json:"findings,omitempty"`
	Verdict     *Verdict     `json:"verdict,omitempty"`

	Unsteady bool `json:"unsteady,omitempty"` // and not each time

	Answered bool `json:"-"` // the failure is an HTTP answer
}

// report puts together what was found.
func (c *checker) report() *Report {
	e := c.e
	r := &Report{URL: c.Name, Works: e.works(), Steps: e.steps, Certificate: e.certificate, FarEnd: e.farView, Findings: e.findings, Unsteady: e.others != "", Verdict: judge(e)}
	for _, p := range e.way() {
		r.Way = append(r.Way, string(p))
	}
	for _, q := range append(questions[:len(questions):len(questions)], later...) {
		if a := e.answers[q.name]; a != nil {
			r.Questions = append(r.Questions, a)
		}
	}
	for _, carrier := range c.Wanted {
		if r.Carrier == "" && e.opens(carrier) {
			r.Carrier = string(carrier)
		}
	}
	r.Answered = e.answer().Outcome == answered
	return r
}
