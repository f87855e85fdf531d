//! The frames, as the models were trained with them.

use crate::tools::ToolFormat;

/// What ends an answer.
#[derive(Clone, Copy)]
pub enum End {
    /// The tokenizer's last token, or `</s>` where it has none.
    Eos,
    /// A marker of the frame itself.
    Marker(&'static str),
}

/// Where the system prompt stands.
#[derive(Clone, Copy)]
pub enum System {
    /// Before the first turn, followed by what separates turns.
    Bare,
    /// Before the first turn, between these, also when there is nothing to say.
    Always(&'static str, &'static str),
    /// Before the first turn, between these.
    Framed(&'static str, &'static str),
    /// Within the first turn of the user's, between these.
    InFirstTurn(&'static str, &'static str),
}

/// A template.
#[derive(Clone, Copy)]
pub struct Frame {
    pub name: &'static str,
    /// System prompt of conversations that have none; empty: none.
    pub prompt: &'static str,
    pub system: System,
    /// What stands before and after what the user says.
    pub user: (&'static str, &'static str),
    /// Whether `End` stands between a bare system prompt and the first turn.
    pub end_after_system: bool,
    /// What stands between an answer's end and the next turn.
    pub between: &'static str,
    pub end: End,
    /// A further text at which generation stops.
    pub stop: Option<&'static str>,
    /// An empty block of thought stands before answers to the last question.
    pub no_thought: bool,
    pub tools: ToolFormat,
}

const PLAIN: Frame = Frame {
    name: "",
    prompt: "",
    system: System::Bare,
    user: ("", ""),
    end_after_system: true,
    between: "",
    end: End::Eos,
    stop: None,
    no_thought: false,
    tools: ToolFormat::Default,
};

const IM: Frame = Frame {
    system: System::Framed("<|im_start|>system\n", "<|im_end|>\n"),
    user: ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
    between: "\n",
    end: End::Marker("<|im_end|>"),
    tools: ToolFormat::Qwen,
    ..PLAIN
};

const INST: Frame = Frame {
    system: System::InFirstTurn("<<SYS>>\n", "\n<</SYS>>\n\n"),
    user: ("[INST] ", " [/INST]"),
    ..PLAIN
};

const HELPFUL: &str = "You are a helpful assistant.";
const QWEN: Frame = Frame { name: "qwen", prompt: HELPFUL, ..IM };

/// A frame of two texts around the question.
const fn plain(name: &'static str, before: &'static str, after: &'static str) -> Frame {
    Frame { name, user: (before, after), ..PLAIN }
}

/// The same with a text between turns, and after the system prompt, that is not the end.
const fn parted(
    name: &'static str,
    before: &'static str,
    after: &'static str,
    between: &'static str,
) -> Frame {
    Frame { between, end_after_system: false, ..plain(name, before, after) }
}

/// All of them, by name.
pub const FRAMES: &[Frame] = &[
    Frame {
        prompt: "Below is an instruction that describes a task. Write a response that \
            appropriately completes the request.",
        ..parted("alpaca", "### Instruction:\n", "\n\n### Response:\n", "\n\n")
    },
    Frame {
        prompt: "A chat between a curious human and an artificial intelligence assistant. The \
            assistant gives helpful, detailed, and polite answers to the human's questions.",
        ..parted("aquila", "Human: ", "###Assistant:", "###")
    },
    plain("baichuan", "<reserved_102>", "<reserved_103>"),
    plain("baichuan2", "<reserved_106>", "<reserved_107>"),
    plain("base", "", ""),
    parted("belle", "Human: ", "\n\nBelle: ", "\n\n"),
    parted("chatglm", "问：", "\n答：", "\n"),
    parted("chatglm2", "问：", "\n\n答：", "\n\n"),
    Frame {
        stop: Some("<|user|>"),
        tools: ToolFormat::Glm4,
        ..parted("chatglm3", "<|user|>\n", "<|assistant|>", "\n")
    },
    Frame { name: "chatml", prompt: HELPFUL, ..IM },
    Frame {
        system: System::Framed("<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        ..plain(
            "cohere",
            "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>",
            "<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        )
    },
    plain("deepseek", "User: ", "\n\nAssistant:"),
    plain("deepseek3", "<｜User｜>", "<｜Assistant｜>"),
    Frame {
        prompt: "You are an AI programming assistant, utilizing the Deepseek Coder model, \
            developed by Deepseek Company, and you only answer questions related to computer \
            science. For politically sensitive questions, security and privacy issues, and other \
            non-computer science questions, you will refuse to answer\n",
        end: End::Marker("<|EOT|>"),
        ..parted("deepseekcoder", "### Instruction:\n", "\n### Response:\n", "\n")
    },
    Frame {
        between: "\n",
        end: End::Marker("<eoa>"),
        ..plain("intern", "<|User|>:", "<eoh>\n<|Bot|>:")
    },
    Frame {
        name: "intern2",
        prompt: "You are an AI assistant whose name is InternLM (书生·浦语).\n",
        ..IM
    },
    parted("linly", "User: ", "\nBot: ", "\n"),
    Frame {
        name: "llama2",
        prompt: "You are a helpful, respectful and honest assistant. Always answer as helpfully \
            as possible, while being safe. Your answers should not include any harmful, \
            unethical, racist, sexist, toxic, dangerous, or illegal content. Please ensure that \
            your responses are socially unbiased and positive in nature.\n\nIf a question does \
            not make any sense, or is not factually coherent, explain why instead of answering \
            something not correct. If you don't know the answer to a question, please don't \
            share false information.",
        ..INST
    },
    Frame {
        name: "llama2-zh",
        prompt: "You are a helpful assistant. 你是一个乐于助人的助手。",
        ..INST
    },
    Frame {
        name: "llama3",
        prompt: "You are a helpful, excellent and smart assistant.",
        system: System::Framed("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
        user: (
            "<|start_header_id|>user<|end_header_id|>\n\n",
            "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        end: End::Marker("<|eot_id|>"),
        tools: ToolFormat::Llama3,
        ..PLAIN
    },
    Frame {
        name: "mistral",
        system: System::InFirstTurn("", "\n\n"),
        tools: ToolFormat::Mistral,
        ..INST
    },
    plain("orion", "Human: ", "\n\nAssistant: </s>"),
    Frame {
        prompt: "A chat between a curious human and an artificial intelligence assistant. The \
            assistant gives helpful, detailed, and polite answers to the human's questions.\n\n",
        ..plain("phoenix", "Human: <s>", "</s>Assistant: ")
    },
    QWEN,
    Frame { name: "qwen3", ..QWEN },
    Frame { name: "qwen3_5", ..QWEN },
    Frame { name: "qwen3_5_nothink", no_thought: true, ..QWEN },
    Frame { name: "qwen3_nothink", no_thought: true, ..QWEN },
    Frame {
        system: System::Always("<system>\n", "<|end|>\n"),
        between: "\n",
        end: End::Marker("<|end|>"),
        ..plain("starchat", "<|user|>\n", "<|end|>\n<|assistant|>\n")
    },
    Frame {
        prompt: "A chat between a curious user and an artificial intelligence assistant. The \
            assistant gives helpful, detailed, and polite answers to the user's questions.",
        ..plain("vicuna", "USER: ", " ASSISTANT:")
    },
    plain("xverse", "Human: ", "\n\nAssistant: "),
    Frame { name: "yi", ..IM },
    parted("ziya", "<human>:", "\n<bot>:", "\n"),
];

/// The frame of this name.
pub fn find(name: &str) -> Option<&'static Frame> {
    FRAMES.iter().find(|frame| frame.name == name)
}
